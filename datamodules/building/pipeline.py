"""The stages of a build in their order, and what each asks of which model.

A stage that asks first completes its ledger and then makes its file from it, so that a build that was killed goes on;
where requests are exported instead, the build stops at the first stage whose answers are not all there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...boundary.files import write_text
from ...errors import InputError
from ..asking.runner import Asker, State, Want
from ..sources.audio_files import recordings_stamp
from . import canaries, probe
from .asking import Prompts, with_answer
from .balance import balanced, by_length, without_surplus
from .checks import CAPTION_TALK, Repeats, fault_of, talks_of_captions
from .draft import DIMENSIONS, Draft
from .reading import Sources, read_origins, unique
from .stages import Kept, Stages

WRITER, GRADER, PROBE = "writer", "grader", "probe"


@dataclass
class Rules:
    """How questions are made and which are kept.

    Args:
        calls: "four" of the paper (question, structured chain, simple chain, grades), or "two": all texts, then grades.
        least_grade: of every dimension. canaries: share of the graded questions that are asked again with a planted
            fault, 20 at least; 0 for none.
        orders: of the options in which the probe asks. falls_at: share of them, answered rightly without the audio, at
            which a question falls. on_fall: "keep" and count it, "rewrite" its wrong options once and count it, or
            "drop".
        longest: greatest share of questions whose answer is the longest option; null for any.
        across: a recording is taken from the first source that has it alone.
        closed_tags: tags of the structured chain as XML has them, not as the paper prints them.
        seed: of the order in the files and of the places of answers.
    """

    calls: Literal["four", "two"] = "four"
    least_grade: int = 4
    canaries: float = 0.02
    orders: int = 4
    falls_at: float = 0.75
    on_fall: Literal["keep", "rewrite", "drop"] = "keep"
    longest: float | None = 0.3
    across: bool = True
    closed_tags: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least_grade <= 5 or not 1 <= self.orders <= 4:
            raise InputError("least_grade is 1 to 5, and orders 1 to 4")
        for name in ("canaries", "falls_at", "longest"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must be a share from 0 to 1, got {value}")


class Step(NamedTuple):
    """A stage: what it depends on beside the stages before, who is asked what, and how its drafts are made."""

    name: str
    depends: Any
    make: Callable[[Iterable[Draft]], Kept]
    role: str = ""
    wants: Callable[[Iterable[Draft]], Iterator[Want]] | None = None


@dataclass
class Pipeline:
    """The steps of a build over a folder of stages.

    askers: role -> a model with its ledger; writer and grader must be there. exclude: files of origins.
    """

    sources: Sources
    stages: Stages
    askers: Mapping[str, Asker]
    prompts: Prompts
    rules: Rules
    exclude: list[str] = field(default_factory=list)

    def steps(self) -> list[Step]:
        """All stages in their order."""
        rules = self.rules
        steps = [self._read(), Step("unique", self._excluded(), self._unique)]
        first, second = ("question", "reasoning") if rules.calls == "four" else ("question", "")
        merged = rules.calls == "two"
        wants = lambda drafts: (self.prompts.question(d.item, merged) for d in drafts)  # noqa: E731
        steps.append(self._written(first, wants, lambda draft: self.prompts.question(draft.item, merged), "question"))
        steps.append(Step("checks", "", self._checked))
        if second:
            for name, want in (("reasoning", self.prompts.reasoning), ("simple", self.prompts.simple)):
                steps.append(self._written(name, _each(want), want, name))
        steps += [self._repair(), self._grade()]
        if PROBE in self.askers:
            steps.append(self._probe("probe"))
            if rules.on_fall == "rewrite":
                steps += [self._rewrite(), self._probe("probe again")]
        if rules.longest is not None:
            steps.append(Step("balance", rules.longest, self._balance))
        return steps

    def run(self, before: Callable[[Step], None]) -> None:
        """Runs all stages; `before` is called at each that asks and is not done, and makes sure it can be made."""
        for step in self.steps():
            if not self.stages.is_done(step.name, step.depends) and step.wants is not None:
                before(step)
            self.stages.run(step.name, step.depends, step.make)

    def wants(self, step: Step) -> Callable[[], Iterator[Want]]:
        """What the next step asks, made anew whenever it is called."""
        assert step.wants is not None
        wants = step.wants
        return lambda: wants(self.stages.drafts())

    def _depends(self, role: str, *prompts: str) -> list[Any]:
        """What an asked stage depends on beside its drafts: prompts, the model and how it is asked."""
        model, hashes = self.askers[role].model, self.prompts.hashes()
        settings = [model.model, model.system, model.temperature, model.attempts, model.body, model.letter_logprobs]
        chosen = {name: hashes[name] for name in hashes if name.startswith(prompts)} if prompts else {}
        return [settings, chosen, self.rules.calls]

    def _read(self) -> Step:
        sources = self.sources
        how = [[vars(spec), spec.stamps(), recordings_stamp(sources.audio_root, spec.audio)] for spec in sources.specs]
        depends = [how, sources.audio_root, sources.deny, sources.quarantine]

        def read(drafts: Iterable[Draft]) -> Kept:
            yield from sources.read(drafts)
            found = {"counts": sources.counts, "missing": len(sources.missing), "faults": sources.faults}
            write_text(self.stages.folder / "sources.json", json.dumps(found | {"notes": sources.notes}, indent=1))
            lines = "".join(f"{line}\n" for line in sources.missing)
            write_text(self.stages.folder / "missing.tsv", lines)

        return Step("read", depends, read)

    def _excluded(self) -> list[Any]:
        return [sorted(read_origins(self.exclude).items()), self.rules.across]

    def _unique(self, drafts: Iterable[Draft]) -> Kept:
        return unique(drafts, read_origins(self.exclude), self.rules.across)

    def _written(
        self, name: str, wants: Callable[[Iterable[Draft]], Iterator[Want]], want: Callable[[Draft], Want], prompt: str
    ) -> Step:
        """A stage in which the writer adds texts to every draft; one without a usable answer is dropped."""
        asker = self.askers[WRITER]

        def make(drafts: Iterable[Draft]) -> Kept:
            for draft in drafts:
                state = asker.state(want(draft))
                if state.value is None:
                    yield draft, _given_up(state)
                else:
                    yield with_answer(draft, state.value, state.attempts), ""

        more = ("merged",) if self.rules.calls == "two" else ()
        return Step(name, self._depends(WRITER, prompt, *more), make, WRITER, wants)

    def _checked(self, drafts: Iterable[Draft]) -> Kept:
        repeats = Repeats.of(self.stages.drafts())
        for draft in drafts:
            yield draft, fault_of(draft) or repeats.fault(draft)

    def _repair(self) -> Step:
        """Texts that speak of captions are written anew once, then checked again."""
        asker = self.askers[WRITER]

        def make(drafts: Iterable[Draft]) -> Kept:
            for draft in drafts:
                if talks_of_captions(draft):
                    state = asker.state(self.prompts.repair(draft))
                    if state.value is None:
                        yield draft, _given_up(state)
                        continue
                    with_answer(draft, state.value, state.attempts).repaired = True
                reason = fault_of(draft)
                yield draft, reason or (CAPTION_TALK if talks_of_captions(draft) else "")

        wants = lambda drafts: (self.prompts.repair(d) for d in drafts if talks_of_captions(d))  # noqa: E731
        return Step("repair", self._depends(WRITER, "repair"), make, WRITER, wants)

    def _grade(self) -> Step:
        asker, rules = self.askers[GRADER], self.rules

        def wants(drafts: Iterable[Draft]) -> Iterator[Want]:
            yield from (self.prompts.grade(draft) for draft in drafts)
            if "repair" in self.stages.done:  # a dry run asks before
                yield from (want for _, want in self.canaries())

        def make(drafts: Iterable[Draft]) -> Kept:
            for draft in drafts:
                state = asker.state(self.prompts.grade(draft))
                if state.value is None:
                    yield draft, f"not graded: {_given_up(state)}"
                    continue
                draft.reason = state.value["reason"]
                draft.grades = {name: state.value[name] for name in DIMENSIONS}
                low = next((name for name in DIMENSIONS if draft.grades[name] < rules.least_grade), "")
                yield draft, f"grade: {low}" if low else ""

        return Step("grade", [*self._depends(GRADER, "grade"), rules.least_grade, rules.canaries], make, GRADER, wants)

    def canaries(self) -> Iterator[tuple[str, Want]]:
        """(kind, want) of the canaries of the grading stage."""
        drafts, count = self.stages.drafts("repair"), self.stages.count("repair")
        return canaries.wants_of(self.prompts, drafts, self.rules.canaries, count)

    def caught(self) -> dict[str, Any]:
        """What the grader caught, see `canaries.caught`."""
        return canaries.caught(self.askers[GRADER], self.canaries(), self.rules.least_grade)

    def _probe(self, name: str) -> Step:
        """How often the text alone gives the answer; in the second round of those rewritten alone."""
        asker, rules, again = self.askers[PROBE], self.rules, name != "probe"

        def asks(draft: Draft) -> bool:
            return not again or draft.rewritten

        def make(drafts: Iterable[Draft]) -> Kept:
            for draft in drafts:
                if asks(draft):
                    draft.unheard = probe.share_right(asker, draft, rules.orders)
                fell = draft.unheard is not None and draft.unheard >= rules.falls_at
                yield draft, "answered without the audio" if fell and rules.on_fall == "drop" else ""

        wants = lambda drafts: probe.wants_of((d for d in drafts if asks(d)), rules.orders)  # noqa: E731
        depends = [*self._depends(PROBE), rules.orders, rules.falls_at, rules.on_fall]
        return Step(name, depends, make, PROBE, wants)

    def _rewrite(self) -> Step:
        """Other wrong options for what falls without the audio; where they are no better the old ones stay."""
        asker, rules = self.askers[WRITER], self.rules

        def falls(draft: Draft) -> bool:
            return draft.unheard is not None and draft.unheard >= rules.falls_at

        def make(drafts: Iterable[Draft]) -> Kept:
            for draft in drafts:
                value = asker.state(self.prompts.distractors(draft)).value if falls(draft) else None
                if value is not None:
                    old, draft.wrong = draft.wrong, value["wrong"]
                    if fault_of(draft) or talks_of_captions(draft):
                        draft.wrong = old
                    else:
                        draft.rewritten = True
                yield draft, ""

        wants = lambda drafts: (self.prompts.distractors(d) for d in drafts if falls(d))  # noqa: E731
        return Step("rewrite", [*self._depends(WRITER, "distractors"), rules.falls_at], make, WRITER, wants)

    def _balance(self, drafts: Iterable[Draft]) -> Kept:
        assert self.rules.longest is not None
        telling, count = by_length(self.stages.drafts())
        return without_surplus(drafts, balanced(telling, count, self.rules.longest))


def _each(want: Callable[[Draft], Want]) -> Callable[[Iterable[Draft]], Iterator[Want]]:
    """What is wanted of each of the drafts."""
    return lambda drafts: (want(draft) for draft in drafts)


def _given_up(state: State) -> str:
    """Why a draft has no usable answer: what was wrong with the last. InputError where one is still to be asked for."""
    if state.request is not None:
        raise InputError(f"{state.request.name}: is not answered yet; the same command asks again")
    return f"unparsable: {state.faults[-1]}"


def stage_folder(out: str | Path) -> Path:
    """Where the stages of a build lie."""
    return Path(out) / "stages"
