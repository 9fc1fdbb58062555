"""What the annotations say may stand in a file does, and whatever else stands there is named with its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

from earwitness.configs.plugins import function_named
from earwitness.configs.typed import arguments, placed, read, value_of, words
from earwitness.errors import InputError

HERE = "earwitness.tests.configs.test_typed"


@dataclass
class Inner:
    size: int = 1
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"inner.size must be positive, got {self.size}")


@dataclass
class Outer:
    name: str
    ratio: float = 0.5
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    pool: dict[str, str | list[str]] = field(default_factory=dict)
    flag: bool = False
    make: Callable[[int], Any] | None = None


class Base:
    """What objects in a file must be."""


class Derived(Base):
    """One of them."""

    def __init__(self, first: int, width: int = 2) -> None:
        self.first, self.width = first, width


def test_a_mapping_becomes_what_the_annotations_say() -> None:
    spec = {"name": "x", "ratio": 1, "inner": {"size": 3}, "many": [{"kind": "b"}, {}], "pair": [1, 2]}
    made = read(Outer, spec | {"pool": {"s": "a", "t": ["b"]}, "flag": True})
    assert made == Outer("x", 1, Inner(3), [Inner(1, "b"), Inner()], (1, 2), {"s": "a", "t": ["b"]}, True)
    assert read(Outer, {"name": "x", "inner": None}) == Outer("x")
    assert read(Outer, {"name": "x", "inner": Inner(2)}).inner == Inner(2)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"nane": "x"}, "job.yaml: unknown key 'nane'; did you mean 'name'?"),
        ({"zz": 1}, "job.yaml: unknown key 'zz'; it knows name, ratio, inner, many, pair, pool, flag, make"),
        ({}, "job.yaml: needs 'name'"),
        ([1], "job.yaml must be a mapping, got [1]"),
        ({"name": 3}, "job.yaml: name must be a text, got 3"),
        ({"name": "x", "ratio": True}, "job.yaml: ratio must be a number, got True"),
        ({"name": "x", "ratio": "1"}, "job.yaml: ratio must be a number, got '1'"),
        ({"name": "x", "flag": 1}, "job.yaml: flag must be true or false, got 1"),
        ({"name": "x", "inner": 3}, "job.yaml: inner must be a mapping or null, got 3"),
        ({"name": "x", "inner": {"sise": 3}}, "job.yaml: inner: unknown key 'sise'; did you mean 'size'?"),
        ({"name": "x", "inner": {"size": 3.0}}, "job.yaml: inner.size must be a whole number, got 3.0"),
        ({"name": "x", "inner": {"size": 0}}, "job.yaml: inner.size must be positive, got 0"),
        ({"name": "x", "inner": {"kind": "c"}}, "job.yaml: inner.kind must be 'a' or 'b', got 'c'"),
        ({"name": "x", "many": {"size": 1}}, "job.yaml: many must be a list of mappings, got {'size': 1}"),
        ({"name": "x", "many": [{}, {"size": "1"}]}, "job.yaml: many[1].size must be a whole number, got '1'"),
        ({"name": "x", "pair": [1]}, "job.yaml: pair must be a list of 2 values, got [1]"),
        ({"name": "x", "pair": [1, "2"]}, "job.yaml: pair[1] must be a number, got '2'"),
        ({"name": "x", "pool": {"s": 3}}, "job.yaml: pool.s must be a text or a list of texts, got 3"),
        ({"name": "x", "pool": {"s": ["a", 3]}}, "job.yaml: pool.s[1] must be a text, got 3"),
        ({"name": "x", "pool": {3: "a"}}, "job.yaml: pool: its keys must be a text, got 3"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_path(spec, said) -> None:
    with pytest.raises(InputError) as error:
        read(Outer, spec, "job.yaml: ")
    assert str(error.value) == said


def test_an_object_is_made_from_its_class_path() -> None:
    here = import_module(HERE)  # pytest's own copy of this file has other classes
    made = value_of({"class_path": f"{HERE}.Derived", "init_args": {"first": 1}}, here.Base, "model")
    assert type(made).__name__ == "Derived" and (made.first, made.width) == (1, 2)
    make = value_of({"class_path": f"{HERE}.Derived", "init_args": {"width": 5}}, Callable[[int], here.Base], "model")
    assert (make(4).first, make(4).width) == (4, 5), "the first argument comes from whoever calls it"
    for spec, said in (
        ({"class_path": f"{HERE}.Derived"}, "model.init_args: needs 'first'"),
        ({"class_path": f"{HERE}.Derived", "init_args": {"wdth": 1}}, "model.init_args: unknown key 'wdth'; did you"),
        ({"class_path": f"{HERE}.Inner"}, f"model.class_path must name a kind of Base, got '{HERE}.Inner'"),
        ({"class_path": f"{HERE}.Deriwed"}, "has no attribute 'Deriwed'); did you mean 'Derived'?"),
        ({"class_path": f"{HERE}.Derived", "initargs": {}}, "model: unknown key 'initargs'; did you mean 'init_args'?"),
    ):
        with pytest.raises(InputError) as error:
            value_of(spec, here.Base, "model")
        assert said in str(error.value)


def test_a_functions_arguments_are_those_it_names_or_any_where_it_takes_any() -> None:
    def step(source: str, *rest: int, size: int = 1, **more: Any) -> None: ...

    given = {"source": "x", "size": 2, "other": [1]}
    assert arguments(step, given) == given
    for spec, said in (({}, "needs 'source'"), ({"source": "x", "size": "2"}, "size must be a whole number, got '2'")):
        with pytest.raises(InputError) as error:
            arguments(step, spec)
        assert str(error.value) == said


def test_what_an_annotation_does_not_settle_passes() -> None:
    """A class may take what it is given; a default need not fit; a later version's annotation may not resolve."""

    def step(path: Path, size: int = None, names: Sequence[str] = (), unknown: Nowhere = 1) -> None:  # type: ignore  # noqa: F821, RUF013
        ...

    given = {"path": "x", "size": None, "names": ["a"], "unknown": "y"}
    assert arguments(step, given) == given


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int | None, "a whole number or null"),
        (list[str], "a list of texts"),
        (Sequence[int | str], "a list of values, each a whole number or a text"),
        (Mapping[str, Any], "a mapping"),
        (Literal["a", "b", "c"] | Literal[1] | None, "one of 'a', 'b', 'c', 1 or null"),
        (Inner | None, "a mapping or null"),
        (tuple[int, ...], "a list of whole numbers"),
    ],
)
def test_types_in_a_writers_words(hint, said) -> None:
    assert words(hint) == said


def test_a_message_is_placed_without_saying_a_key_twice() -> None:
    assert placed("objective.kl: there is k1", "model.objective") == "model.objective.kl: there is k1"
    assert placed("rewards: no such", "model", ["rewards"]) == "model.rewards: no such"
    assert placed("stage 's': too short", "stages[0]") == "stages[0]: stage 's': too short"
    assert placed("rule: no", "job.yaml: ") == "job.yaml: rule: no" and placed("no", "") == "no"


def test_a_misspelt_import_path_names_its_neighbour() -> None:
    for name, said in (("earwitness.GRPOO", "did you mean 'GRPO'?"), ("math.sqr", "did you mean 'sqrt'?")):
        with pytest.raises(InputError, match=r"here: cannot import .* has no attribute") as error:
            function_named(name, {}, "here")
        assert said in str(error.value)
