"""Functions by name or import path: what is found, and one sentence for what is not."""

from __future__ import annotations

import pytest

from earwitness.configs.plugins import function_named
from earwitness.errors import InputError

KNOWN = {"grpo": len, "dapo": max}


def test_a_short_name_is_looked_up_and_a_dotted_one_imported() -> None:
    assert function_named("dapo", KNOWN, "loss") is max
    assert function_named("os.path.join", KNOWN, "loss").__name__ == "join"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grpoo", r"^loss: unknown name 'grpoo'; did you mean 'grpo'\? \(or give an import path\)$"),
        ("zzz", r"^loss: unknown name 'zzz'; there are grpo, dapo \(or give an import path\)$"),
        ("no_such_lab.mine", "^loss: cannot import 'no_such_lab.mine'"),
        ("os.path.nothing", "^loss: cannot import 'os.path.nothing'"),
        ("..x", "^loss: cannot import '..x'"),
        (".x", "^loss: cannot import '.x'|unknown name '.x'"),
        ("os.sep", "^loss: 'os.sep' is not a function$"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, message) -> None:
    with pytest.raises(InputError, match=message):
        function_named(name, KNOWN, "loss")
