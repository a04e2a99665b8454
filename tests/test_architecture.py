"""What every file of the package must respect, read from its source; nothing is imported."""

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {"trainers": "nnunet_mtl.trainers", "planners": "nnunet_mtl.planners"}

LEAVES_ARE_IMPORTED_BY = {"nnunet_mtl.cli.training"}
SWAPS_NAMES = "nnunet_mtl.common.swapped_names"


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name when installed, and its tree."""

    name: str
    tree: ast.Module

    @classmethod
    def parse(cls, name, source):
        return cls(name, ast.parse(source))

    def imports(self) -> Iterator[str]:
        """Every imported name, dotted, also those imported inside functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = (*MAPPED.get(parts[0], parts[0]).split("."), *parts[1:])
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules():
    paths = [path for top in ("nnunet_mtl", *MAPPED) for path in sorted((ROOT / top).rglob("*.py"))]
    assert len(paths) > 20
    return tuple(Module.parse(_dotted(path), path.read_text(encoding="utf-8")) for path in paths)


def _leaves():
    tops = tuple(f"{name}." for name in MAPPED.values())
    leaves = [module for module in _modules() if module.name.startswith(tops)]
    assert leaves
    return leaves


def _in(room, name):
    return name == room or name.startswith(f"{room}.")


def _is_third_party(name):
    return name.split(".")[0] not in sys.stdlib_module_names | {"nnunet_mtl"}


def _leaf_imports(module):
    if module.name in LEAVES_ARE_IMPORTED_BY:
        return
    for imported in module.imports():
        # a leaf is alone in its file: no leaf imports another
        if any(_in(leaves, imported) for leaves in MAPPED.values()):
            yield f"{module.name} imports {imported}"


def _root_name(node):
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _targets(node):
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def _patches(module):
    """Assignments into what was imported from elsewhere, in any spelling that a reader would not have to search for."""
    foreign = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            foreign |= {a.asname or a.name.split(".")[0] for a in node.names if _is_third_party(a.name)}
        elif isinstance(node, ast.ImportFrom) and _is_third_party(node.module or ""):
            foreign |= {a.asname or a.name for a in node.names}
    for node in ast.walk(module.tree):
        for target in _targets(node):
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            for part in parts:
                nested = isinstance(part, ast.Attribute | ast.Subscript)
                if nested and (_root_name(part) in foreign or ast.unparse(part).startswith("sys.modules")):
                    yield f"{module.name}:{node.lineno} assigns to {ast.unparse(part)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            yield f"{module.name}:{node.lineno} calls {ast.unparse(node)}"
    yield from (f"{module.name} imports {name}" for name in module.imports() if _in("unittest", name))


def _leaf_faults(module, hooks):
    name = module.name.split(".")[-1]
    rest = module.tree.body[1:]  # after the docstring
    classes = [node for node in rest if isinstance(node, ast.ClassDef)]
    if [node.name for node in classes] != [name]:
        yield f"{module.name} must define one class, named as the file"
    allowed = (ast.ClassDef, ast.Import, ast.ImportFrom)
    yield from (
        f"{module.name}:{node.lineno} is neither import nor class" for node in rest if type(node) not in allowed
    )
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in hooks:
            yield f"{module.name}:{node.lineno} defines {node.name}, which is no hook"
    if module.tree.body[-1].end_lineno > 45:
        yield f"{module.name} has more than 45 lines"


def _hooks():
    """Methods that the base classes of the leaves define, and that a leaf may therefore override."""
    bases = [
        module for module in _modules() if module.name.startswith(("nnunet_mtl.training.", "nnunet_mtl.planning."))
    ]
    classes = [node for module in bases for node in module.tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)}
    return {name for name in methods if not name.startswith("__")}


def _faults(check):
    return [fault for module in _modules() for fault in check(module)]


def _relative_imports(module):
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{module.name}:{node.lineno}"


def _main_blocks(module):
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare) and "__name__" in map(ast.unparse, (node.left, *node.comparators)):
            yield f"{module.name}:{node.lineno}"


def _missing_docstrings(module):
    if not ast.get_docstring(module.tree):
        yield module.name


def _forbidden_words(text):
    # written in parts, or this file would be found
    words = ("/wo" + "rk/", "sha" + "red/", "design" + " card")
    return [word for word in words if re.search(rf"(?<![\w.-]){re.escape(word)}", text, re.IGNORECASE)]


def test_every_folder_of_the_package_is_found_by_setup_and_mapped_to_its_name():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    inside = [path.parent for path in (ROOT / "nnunet_mtl").rglob("*.py")]
    tree = {".".join(folder.relative_to(ROOT).parts) for folder in inside} | set(MAPPED.values())
    listing = [
        sys.executable,
        "-c",
        "import setuptools; setuptools.setup = lambda packages: print(*packages); import setup",
    ]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == sorted(tree)
    assert folders == {"nnunet_mtl": "nnunet_mtl"} | {name: folder for folder, name in MAPPED.items()}
    assert all((folder / "__init__.py").is_file() for folder in (*inside, *(ROOT / folder for folder in MAPPED)))


def test_paths_that_files_name_are_there():
    path = re.compile(r"\b(?:nnunet_mtl|trainers|planners|tests|docs|benchmarks)/[\w/]+\.(?:py|md|json|txt)\b")
    names = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    texts = [ROOT / name for name in names]
    texts += [file for top in ("nnunet_mtl", *MAPPED, "docs", "benchmarks") for file in (ROOT / top).rglob("*.*")]
    readable = [file for file in texts if file.suffix in (".cfg", ".toml", ".md", ".py")]
    named = {(file.name, found) for file in readable for found in path.findall(file.read_text(encoding="utf-8"))}
    assert named
    assert [f"{name} names {found}" for name, found in sorted(named) if not (ROOT / found).exists()] == []


def test_every_import_keeps_the_contracts():
    assert _lint_imports() == 0


def test_a_contract_that_is_broken_is_seen(tmp_path):
    """With two rooms exchanged, the rooms that import downwards import upwards."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    exchanged = text.replace("nnunet_mtl.losses", "@").replace("nnunet_mtl.tasks", "nnunet_mtl.losses")
    config = tmp_path / "pyproject.toml"
    config.write_text(exchanged.replace("@", "nnunet_mtl.tasks"), encoding="utf-8")
    assert _lint_imports(str(config)) == 1


def _lint_imports(*words):
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([command, *words], cwd=ROOT, capture_output=True, check=False).returncode


def test_every_folder_of_the_package_is_a_room_of_the_contracts():
    rooms = {path.parent.name for path in (ROOT / "nnunet_mtl").glob("*/__init__.py")}
    text = (ROOT / "pyproject.toml").read_text()
    (layers,) = re.findall(r"^layers = \[(.*?)^\]", text, flags=re.DOTALL | re.MULTILINE)
    loose = {path.stem for path in (ROOT / "nnunet_mtl").glob("*.py")} - {"__init__"}
    assert sorted(re.findall(r'"(.*?)"', layers)) == sorted(f"nnunet_mtl.{name}" for name in rooms | loose)


@pytest.mark.parametrize(
    "check",
    [
        _leaf_imports,
        _relative_imports,
        _main_blocks,
        _missing_docstrings,
    ],
)
def test_no_module_breaks_the_rule(check):
    assert _faults(check) == []


def test_nothing_is_assigned_into_a_foreign_module_but_in_one_place():
    modules = {fault.split(":")[0] for fault in _faults(_patches)}
    assert modules == {SWAPS_NAMES}


def test_leaves_hold_one_class_that_overrides_hooks_only():
    hooks = _hooks()
    assert "configure_optimizers" in hooks
    assert [fault for leaf in _leaves() for fault in _leaf_faults(leaf, hooks)] == []


def test_no_tracked_file_speaks_of_where_it_was_written():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listing.stdout.decode().split("\0")):
        text = (ROOT / name).read_bytes().decode("utf-8", "ignore") if (ROOT / name).is_file() else ""
        found += [f"{name}: {word}" for word in _forbidden_words(text)]
    assert found == []


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (_leaf_imports, "nnunet_mtl.lab.demo.x", "from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import X"),
        (_leaf_imports, "nnunet_mtl.lab.demo.x", "from nnunet_mtl import planners"),
        (_leaf_imports, "nnunet_mtl.trainers.x", "import nnunet_mtl.trainers.y"),
        (_relative_imports, "nnunet_mtl.x", "from . import y"),
        (_main_blocks, "nnunet_mtl.x", "if __name__ == '__main__':\n    pass"),
        (_missing_docstrings, "nnunet_mtl.x", "x = 1"),
        (_patches, "nnunet_mtl.x", "import torch\ntorch.load = None"),
        (_patches, "nnunet_mtl.x", "import torch.nn as nn\na, nn.Module.forward = 1, 2"),
        (_patches, "nnunet_mtl.x", "from nnunetv2.paths import nnUNet_raw as r\nr.get += 1"),
        (_patches, "nnunet_mtl.x", "def f():\n    import torch\n    del torch.load"),
        (_patches, "nnunet_mtl.x", "import torch\ntorch.__dict__['load']: int = 1"),
        (_patches, "nnunet_mtl.x", "import sys\nsys.modules['torch'] = None"),
        (_patches, "nnunet_mtl.x", "def f(module):\n    setattr(module, 'load', None)"),
        (_patches, "nnunet_mtl.x", "from unittest import mock"),
    ],
)
def test_each_rule_sees_what_breaks_it(check, name, source):
    assert list(check(Module.parse(name, source))) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nnunet_mtl.training.x", '"""D."""\nimport os\nfrom nnunet_mtl import tasks\nos.environ["X"] = "1"'),
        ("nnunet_mtl.networks.x", '"""D."""\nimport torch\nfrom nnunet_mtl.tasks import TaskSet\nx = torch.nn\nx = 1'),
        ("nnunet_mtl.cli.training", '"""D."""\nfrom nnunet_mtl import __version__, trainers'),
    ],
)
def test_no_rule_sees_what_is_right(name, source):
    checks = (_leaf_imports, _relative_imports, _main_blocks, _patches)
    assert [fault for check in checks for fault in check(Module.parse(name, source))] == []


@pytest.mark.parametrize(
    "body",
    [
        "class Other:\n    pass",
        "class Leaf:\n    pass\nclass Second:\n    pass",
        "def helper():\n    pass\nclass Leaf:\n    pass",
        "CONSTANT = 1\nclass Leaf:\n    pass",
        "class Leaf:\n    def __init__(self):\n        pass",
        "class Leaf:\n    def train_faster(self):\n        pass",
        "class Leaf:\n    def configure_optimizers(self):\n        def inner():\n            pass",
        "class Leaf:\n    pass" + "\n" * 45 + "    x = 1",
    ],
)
def test_a_leaf_with_more_than_composition_is_seen(body):
    leaf = Module.parse("nnunet_mtl.trainers.Leaf", f'"""D."""\n{body}')
    assert list(_leaf_faults(leaf, {"configure_optimizers"})) != []


def test_a_leaf_that_overrides_a_hook_is_right():
    source = '"""D."""\nfrom x import Y\nclass Leaf(Y):\n    def configure_optimizers(self):\n        return 1'
    assert list(_leaf_faults(Module.parse("nnunet_mtl.trainers.Leaf", source), {"configure_optimizers"})) == []


def test_forbidden_words_are_seen_where_a_path_begins():
    assert _forbidden_words("see /wo" + "rk/main") == ["/wo" + "rk/"]
    assert _forbidden_words("see sha" + "red/methods.md, the Design" + " card")
    assert _forbidden_words("network/unet, homework/, $HOME/sha" + "redfolder") == []
