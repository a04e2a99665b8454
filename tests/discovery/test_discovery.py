import ast
import os
import pickle
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from nnunet_mtl import discovery
from nnunet_mtl.discovery.leaves import leaves

ROOT = Path(__file__).parents[2]
VARIABLE = "nnUNet_extTrainer"
LOOK_AT_VARIABLE = f"import os; print(os.environ.get({VARIABLE!r}))"


def _environment(**values):
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet", "COV", "PYTHON"))}
    return bare | values


def _python(python, code, **environment):
    """Run code in a fresh interpreter; anything on stderr, such as a complaint of site.py, is a failure."""
    run = subprocess.run(
        [python, "-c", code], env=_environment(**environment), capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.strip()


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """Make a Python environment of its own, so that no test touches the one it runs in."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, env=_environment())
    return folder / "bin" / "python"


@pytest.fixture
def package(tmp_path):
    """Copy what discovery needs to a folder whose name is hard to quote; return a call that runs it from there."""
    root = tmp_path / 'it\'s a "$HOME" ünïcode'
    shutil.copytree(ROOT / "nnunet_mtl", root / "nnunet_mtl", ignore=shutil.ignore_patterns("__pycache__"))

    def call(python, expression, **environment):
        code = f"import sys; sys.path.insert(0, {str(root)!r}); from nnunet_mtl import discovery as d; "
        return _python(python, code + f"print({expression})", **environment)

    return root / "nnunet_mtl" / "discovery" / "ext_trainers", call


def test_the_shim_re_exports_every_trainer_and_does_nothing_else():
    names = {path.stem for path in (ROOT / "trainers").glob("*.py")} - {"__init__"}
    assert names
    shim = runpy.run_path(str(discovery.shim_folder() / "nnunet_mtl_shim.py"))
    exported = {name: value for name, value in shim.items() if not name.startswith("__")}
    assert exported.pop("leaves") is leaves
    assert exported == {name: getattr(import_module(f"nnunet_mtl.trainers.{name}"), name) for name in names}
    docstring, *statements = ast.parse((discovery.shim_folder() / "nnunet_mtl_shim.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [type(statement) for statement in statements] == [ast.ImportFrom, ast.Expr]


def test_the_shim_is_the_only_file_nnunet_would_import():
    files = {path.name for path in discovery.shim_folder().iterdir() if path.name != "__pycache__"}
    assert files == {"__init__.py", "nnunet_mtl_shim.py"}


@pytest.mark.parametrize("user", [[], ["/one"], ["/with space", '/it\'s "$HOME" `id` \\', "/a*;b\nc"]])
def test_env_line_appends_to_what_the_user_has_set_and_only_once(user, monkeypatch):
    folder = str(discovery.shim_folder())
    if user:
        monkeypatch.setenv(VARIABLE, os.pathsep.join(user))
    else:
        monkeypatch.delenv(VARIABLE, raising=False)
    for _ in range(2):
        line = discovery.env_line()
        shell = ["sh", "-c", f"{line}\n{shlex.join([sys.executable, '-c', LOOK_AT_VARIABLE])}"]
        value = subprocess.run(shell, env=_environment(), capture_output=True, text=True, check=True).stdout[:-1]
        assert value.split(os.pathsep) == [*user, folder]
        monkeypatch.setenv(VARIABLE, value)


def test_env_line_of_an_empty_variable_has_no_empty_entry(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert discovery.env_line() == f"export {VARIABLE}={discovery.shim_folder()}"


def test_a_folder_the_variable_cannot_hold_is_refused(venv, tmp_path):
    root = tmp_path / f"a{os.pathsep}b"
    shutil.copytree(ROOT / "nnunet_mtl", root / "nnunet_mtl", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import sys; sys.path.insert(0, {str(root)!r})
from nnunet_mtl import discovery
for act in discovery.env_line, discovery.enable:
    try:
        act()
    except discovery.DiscoveryError as error:
        print(error)
"""
    lines = _python(venv, code).splitlines()
    assert len(lines) == 2
    assert all("cannot contain" in line for line in lines)


def test_enable_twice_and_disable_twice_say_what_they_did(tmp_path):
    pth = tmp_path / discovery.PTH_NAME
    assert discovery.enable(tmp_path).startswith(f"enabled: wrote {pth}")
    assert discovery.enable(tmp_path).startswith("already enabled")
    assert [path.name for path in tmp_path.iterdir()] == [discovery.PTH_NAME]
    assert discovery.disable(tmp_path).startswith(f"disabled: removed {pth}")
    assert discovery.disable(tmp_path).startswith("not enabled")
    assert list(tmp_path.iterdir()) == []


def test_a_stale_pth_is_known_and_replaced(tmp_path):
    (tmp_path / discovery.PTH_NAME).write_text("import os\n")
    before = discovery.state(tmp_path)
    assert (before.by_pth, before.pth_is_stale) == (False, True)
    assert discovery.enable(tmp_path).startswith("enabled anew")
    after = discovery.state(tmp_path)
    assert (after.by_pth, after.pth_is_stale) == (True, False)


def test_a_folder_that_cannot_be_written_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(discovery.DiscoveryError, match=r'eval "\$\(nnunet_mtl env\)"'):
        discovery.enable(tmp_path / "missing")
    (tmp_path / discovery.PTH_NAME).mkdir()  # not even root can replace a folder by a file
    with pytest.raises(discovery.DiscoveryError, match="cannot be changed"):
        discovery.enable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [discovery.PTH_NAME]


def test_enable_reaches_every_python_of_the_environment_until_disable(venv, package):
    folder, call = package
    assert call(venv, "d.enable()").startswith("enabled")
    assert _python(venv, LOOK_AT_VARIABLE) == str(folder)
    assert _python(venv, LOOK_AT_VARIABLE, **{VARIABLE: ""}) == str(folder)
    assert _python(venv, LOOK_AT_VARIABLE, **{VARIABLE: "/one:/two"}) == f"/one:/two:{folder}"
    assert _python(venv, LOOK_AT_VARIABLE, **{VARIABLE: f"/one:{folder}:/two"}) == f"/one:{folder}:/two"
    assert call(venv, "d.disable()").startswith("disabled")
    assert _python(venv, LOOK_AT_VARIABLE) == "None"


def test_an_enabled_environment_starts_in_silence_after_uninstallation(venv, package):
    folder, call = package
    call(venv, "d.enable()")
    shutil.rmtree(folder)
    assert _python(venv, LOOK_AT_VARIABLE, **{VARIABLE: "/one"}) == "/one"
    (Path(_python(venv, "import sysconfig; print(sysconfig.get_path('purelib'))")) / discovery.PTH_NAME).unlink()


def test_an_enabled_interpreter_imports_nothing_at_start(venv, package):
    _, call = package
    loaded = "import sys; print(*sorted(sys.modules))"
    before = _python(venv, loaded)
    call(venv, "d.enable()")
    after = _python(venv, loaded)
    call(venv, "d.disable()")
    assert after == before


def test_state_tells_the_environment_from_the_pth(venv, package):
    folder, call = package
    ways = "(lambda s: (s.announced, s.by_pth, s.by_environment))(d.state())"
    assert call(venv, ways) == "(False, False, False)"
    assert call(venv, ways, **{VARIABLE: str(folder)}) == "(True, False, True)"
    call(venv, "d.enable()")
    if Path("/proc/self/environ").exists():
        assert call(venv, ways) == "(True, True, False)"
        assert call(venv, ways, **{VARIABLE: f"/one:{folder}"}) == "(True, True, True)"
    assert call(venv, "d.state().missing", **{VARIABLE: "/nowhere/one"}) == "('/nowhere/one',)"
    call(venv, "d.disable()")


def test_nnunet_finds_a_trainer_under_its_importable_name(monkeypatch):
    monkeypatch.setenv(VARIABLE, str(discovery.shim_folder()))
    name = "nnUNetTrainerMTLAttention"
    trainer = discovery.look_up(name)
    assert discovery.is_found(name)
    assert discovery.look_up(name) is trainer
    assert trainer.__module__ == f"nnunet_mtl.trainers.{name}"
    assert pickle.loads(pickle.dumps(trainer)) is trainer


def test_a_trainer_that_is_not_found_is_refused_with_the_cause(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not discovery.is_found("nnUNetTrainerMTLAttention")
    (tmp_path / "broken.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(discovery.DiscoveryError, match="No module named 'a_module_that_is_missing'") as refusal:
        discovery.look_up("nnUNetTrainerMTLAttention")
    (tmp_path / "broken.py").write_text("raise SystemExit('no commands supplied')\n")
    with pytest.raises(discovery.DiscoveryError, match="SystemExit: no commands supplied"):
        discovery.look_up("nnUNetTrainerMTLAttention")
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_announce_appends_the_folder_for_this_process_once(monkeypatch):
    folder = str(discovery.shim_folder())
    monkeypatch.setenv(VARIABLE, "/one")
    discovery.announce()
    discovery.announce()
    assert os.environ[VARIABLE] == os.pathsep.join(["/one", folder])
