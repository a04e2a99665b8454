import copy
import json
import random

import pytest

from nnunet_mtl.tasks.settings import Settings, SettingsError


def test_that_defaults_are_nnunets():
    defaults = Settings()
    assert (defaults.epochs, defaults.iterations, defaults.val_iterations) == (1000, 250, 50)
    assert (defaults.initial_lr, defaults.momentum, defaults.weight_decay) == (0.01, 0.99, 3e-5)
    assert defaults.oversample_foreground_percent == 0.33
    assert (defaults.sampling, defaults.gates, defaults.head) == ("cases", "identity", "regions")


def test_that_no_values_give_the_defaults_and_json_keeps_every_setting():
    assert Settings.from_mapping({}, "plans.json") == Settings()
    written = json.loads(json.dumps(Settings(epochs=7, head="slots", mirroring=False).to_mapping()))
    assert Settings.from_mapping(written, "plans.json") == Settings(epochs=7, head="slots", mirroring=False)
    assert "momentum" in written


def test_that_an_integer_may_stand_for_a_float_and_becomes_one():
    settings = Settings.from_mapping({"dice_weight": 2}, "plans.json")
    assert type(settings.dice_weight) is float
    assert settings == Settings(dice_weight=2.0)


DEEP: list = []
for _ in range(3000):
    DEEP = [DEEP]

REFUSED = [
    ({"epoch": 3}, "unknown setting 'epoch' (did you mean epochs?); `nnunet_mtl plan --set help` lists all"),
    ({"a\nb": 3}, r"unknown setting 'a\nb'"),
    ({"epochs": True}, "epochs=true must be of type int"),
    ({"epochs": 3.0}, "epochs=3.0 must be of type int"),
    ({"epochs": "3"}, "epochs='3' must be of type int"),
    ({"epochs": None}, "epochs=null must be of type int"),
    ({"epochs": 0}, "epochs=0 must be at least 1"),
    ({"iterations": -1}, "iterations=-1 must be at least 1"),
    ({"val_iterations": 0}, "val_iterations=0 must be at least 1"),
    ({"save_every": 0}, "save_every=0 must be at least 1"),
    ({"epochs": 10**5000}, "epochs=an integer of 16610 bits must be at least 1 and at most"),
    ({"pyramid_levels": -1}, "pyramid_levels=-1 must be at least 0"),
    ({"weight_decay": float("nan")}, "weight_decay=nan must be at least 0 and finite"),
    ({"weight_decay": float("inf")}, "weight_decay=inf must be at least 0 and finite"),
    ({"weight_decay": -1e-9}, "weight_decay=-1e-09 must be at least 0"),
    ({"weight_decay": False}, "weight_decay=false must be of type float"),
    ({"weight_decay": 10**5000}, "weight_decay=an integer of 16610 bits must be finite"),
    ({"initial_lr": 0}, "initial_lr=0.0 must be positive and finite"),
    ({"initial_lr": float("nan")}, "initial_lr=nan must be positive and finite"),
    ({"initial_lr": [0.1]}, "initial_lr=a list of 1 must be of type float"),
    ({"initial_lr": DEEP}, "initial_lr=a list of 1 must be of type float"),
    ({"momentum": 1.1}, "momentum=1.1 must be between 0 and 1"),
    ({"oversample_foreground_percent": 33}, "oversample_foreground_percent=33.0 must be between 0 and 1"),
    ({"mirroring": 1}, "mirroring=1 must be of type bool"),
    ({"deep_supervision": "true"}, "deep_supervision='true' must be of type bool"),
    ({"sampling": "task"}, "sampling='task' must be one of cases, tasks, sqrt"),
    ({"gates": ["identity"]}, "gates=a list of 1 must be one of identity, faithful"),
    ({"head": {}}, "head=an empty object must be one of regions, slots"),
    ({"dice_weight": 0, "bce_weight": 0}, "dice_weight=0.0 must be positive where bce_weight is 0"),
    ([], "settings must be an object of names and values, not an empty list"),
    (None, "settings must be an object of names and values, not null"),
]


@pytest.mark.parametrize(("values", "fragment"), REFUSED, ids=[fragment for _, fragment in REFUSED])
def test_that_a_bad_setting_is_refused_in_one_line(values, fragment):
    with pytest.raises(SettingsError) as refusal:
        Settings.from_mapping(values, "plans.json")
    message = str(refusal.value)
    assert message.startswith("plans.json: ")
    assert fragment in message
    assert "\n" not in message


def test_that_set_reads_each_type_on_top_of_the_base():
    settings = Settings.parse(
        ["epochs=50", "initial_lr=5e-2", "mirroring=False", "deep_supervision=1", "gates=faithful"], {"epochs": 9}
    )
    assert settings == Settings(epochs=50, initial_lr=0.05, mirroring=False, deep_supervision=True, gates="faithful")
    assert Settings.parse([], {"epochs": 9}) == Settings(epochs=9)


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("epochs", "--set: 'epochs' is not of the form NAME=VALUE"),
        ("epochs=", "--set: epochs='' must be a number of type int"),
        ("epochs=1.5", "--set: epochs='1.5' must be a number of type int"),
        ("epochs=" + "9" * 5000, "--set: epochs='999"),
        ("initial_lr=fast", "--set: initial_lr='fast' must be a number of type float"),
        ("initial_lr=nan", "--set: initial_lr=nan must be positive and finite"),
        ("mirroring=yes", "--set: mirroring='yes' must be true or false"),
        ("speed=3", "--set: unknown setting 'speed'; `nnunet_mtl plan --set help` lists all"),
        ("=3", "--set: unknown setting ''"),
        ("head=both", "--set: head='both' must be one of regions, slots"),
        ("sampling=task", "--set: sampling='task' must be one of cases, tasks, sqrt (did you mean tasks?)"),
    ],
)
def test_that_a_bad_assignment_is_refused_in_one_line(assignment, fragment):
    with pytest.raises(SettingsError) as refusal:
        Settings.parse([assignment], {})
    assert str(refusal.value).startswith(fragment)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_that_a_bad_base_is_not_blamed_on_the_command_line():
    with pytest.raises(SettingsError, match="settings before --set: epochs=0 must be at least 1"):
        Settings.parse(["epochs=5"], {"epochs": 0})


JUNK = [
    None, True, False, 0, 1, -1, 2, 0.0, 0.5, -0.5, 1.0, 2.5, 1e308, float("nan"), float("inf"), -float("inf"),
    10**5000, "", "cases", "slots", "a\nb", "\ud800", [], ["identity"], {}, {"epochs": 1}, DEEP,
]  # fmt: skip


def attempt(values):
    try:
        return Settings.from_mapping(values, "plans.json"), ""
    except SettingsError as error:
        return None, str(error)


def test_that_mutated_settings_raise_nothing_but_settings_error():
    refused = 0
    for number in range(1000):
        random_choice = random.Random(number)
        values = copy.deepcopy(Settings().to_mapping())
        for _ in range(random_choice.randint(1, 3)):
            name = random_choice.choice(list(values))
            kind = random_choice.choice(["delete", "replace", "add", "swap"])
            if kind == "delete":
                del values[name]
            elif kind == "replace":
                values[name] = random_choice.choice(JUNK)
            elif kind == "add":
                values[random_choice.choice(["", "epoch", "\n", "\ud800", "x" * 500])] = random_choice.choice(JUNK)
            else:
                other = random_choice.choice(list(values))
                values[name], values[other] = values[other], values[name]
        settings, refusal = attempt(values)
        if settings is None:
            refused += 1
            assert refusal.startswith("plans.json: "), number
            assert "\n" not in refusal, number
        else:
            assert Settings.from_mapping(json.loads(json.dumps(settings.to_mapping())), "again") == settings
    assert 500 < refused < 1000
