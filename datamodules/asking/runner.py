"""Asking until every answer can be used: what is stored is never asked again, what cannot be used gets another attempt.

Nothing but the ledger is remembered: what to ask next follows from what it holds, so a run that was killed goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...curriculum.identity import hash64
from ...errors import InputError
from .chat import Completion
from .endpoint import ChatEndpoint
from .ledger import Ledger, key_of
from .schemas import Schema, Unusable, parsed, response_format

_PRICES = ("input_million", "output_million")
_REFUSED, _BY_SERVER = 0.2, "refused"  # the greatest share of requests; what stands in the ledger


class Want(NamedTuple):
    """What is wanted of a model about one thing: who it is about, the messages, and the form of the answer.

    schema: {} for any text; the value is then `text`, and `letters` where their log-probs were asked for.
    check: raises Unusable for an answer that has the form and cannot be used.
    """

    name: str
    messages: list[dict[str, str]]
    schema: Schema
    max_tokens: int
    about: str = "answer"
    check: Callable[[dict[str, Any]], None] | None = None


class Request(NamedTuple):
    """One attempt at a want: its key in the ledger, and the body that is sent."""

    key: str
    body: dict[str, Any]
    name: str
    attempt: int


@dataclass
class Model(ChatEndpoint):
    """A language model that answers in a given form; `url` may be missing where batch files are exported.

    Args:
        attempts: answers that are asked for before one is given up; each has another seed, and a temperature of 0.3 or
            more behind the first.
        price: money per `input_million` and `output_million` tokens.
        tokens_per_s: what all addresses write together, for the hours of a dry run.
    """

    url: str | list[str] = field(default_factory=list)
    model: str = ""
    temperature: float = 0.7
    concurrency: int = 64
    attempts: int = 4
    price: dict[str, float] = field(default_factory=dict)
    tokens_per_s: float = 1_000.0

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("model: give its name on the server")
        if self.url:
            super().__post_init__()
        if self.attempts < 1 or self.tokens_per_s <= 0:
            raise InputError("attempts must be 1 or more, and tokens_per_s positive")
        if unknown := sorted(set(self.price) - set(_PRICES)):
            raise InputError(f"price: unknown rate {unknown[0]!r}; there are {', '.join(_PRICES)}")
        if any(rate < 0 for rate in self.price.values()):
            raise InputError("price: a rate must not be negative")

    def request(self, ask: Request) -> dict[str, Any]:
        """The body of a request."""
        return ask.body

    def name(self, ask: Request) -> str:
        """The key of a request."""
        return ask.key

    def attempt(self, want: Want, number: int) -> Request:
        """An attempt at a want, counted from 0: the same request in every run."""
        messages = want.messages
        if self.system and messages[0]["role"] == "system":  # some templates take no second one
            messages = [{"role": "system", "content": f"{self.system}\n\n{messages[0]['content']}"}, *messages[1:]]
        elif self.system:
            messages = [{"role": "system", "content": self.system}, *messages]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": max(self.temperature, 0.3 if number else 0.0),
            "max_tokens": want.max_tokens,
            "seed": hash64("attempt", number) % 2**31,
        }
        if want.schema:
            body["response_format"] = response_format(want.about, want.schema)
        if self.letter_logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        body |= self.body
        return Request(key_of(body, number), body, want.name, number)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Money for so many tokens."""
        rates = [self.price.get(name, 0.0) for name in _PRICES]
        return (rates[0] * prompt_tokens + rates[1] * completion_tokens) / 1e6


class State(NamedTuple):
    """Where a want stands: its value, or the request that is to be asked next, or neither where it is given up.

    faults: what was wrong with the answers so far. attempts: answers there are.
    """

    value: dict[str, Any] | None
    request: Request | None
    faults: list[str]
    attempts: int


class Asker:
    """A model with its ledger: tells where wants stand, and asks what is missing.

    spend: called before each request; false where the money is spent.
    """

    def __init__(self, model: Model, ledger: Ledger, spend: Callable[[], bool] = lambda: True) -> None:
        self.model, self.ledger, self.spend = model, ledger, spend
        self.faults: Counter[str] = Counter()  # of answers that could not be used, in this run
        self.failed: dict[str, str] = {}  # who got no answer in the last round -> why
        self.refused: list[tuple[Request, Completion]] = []  # in the last round

    def state(self, want: Want) -> State:
        """Where a want stands by what the ledger holds."""
        faults: list[str] = []
        for number in range(self.model.attempts):
            request = self.model.attempt(want, number)
            answer = self.ledger.get(request.key)
            if answer is None:
                return State(None, request, faults, number)
            try:
                return State(read_answer(answer, want), None, faults, number + 1)
            except Unusable as fault:
                faults.append(str(fault))
        return State(None, None, faults, self.model.attempts)

    def missing(self, wants: Iterable[Want]) -> Iterator[Request]:
        """The requests that are to be asked next, one for each want that stands open."""
        for want in wants:
            state = self.state(want)
            if state.request is not None:
                yield state.request

    def ask(self, wants: Callable[[], Iterable[Want]], advance: Callable[[], None] = lambda: None) -> None:
        """Asks until every want has a value or is given up.

        wants: makes them anew, as often as it is called. Raises InputError where the money is spent, and where requests
        failed after all retries; what was answered is kept.
        """
        for _ in range(self.model.attempts):
            asked, self.failed, self.refused = 0, {}, []
            spent = False

            def requests() -> Iterator[Request]:
                nonlocal asked, spent
                for request in self.missing(wants()):
                    if not self.spend():
                        spent = True
                        return
                    asked += 1
                    yield request

            def take(request: Request, completion: Completion) -> None:
                self.take(request, completion)
                advance()

            if not self.model.url:
                if first := next(self.missing(wants()), None):
                    raise InputError(f"{self.model.model} has no url, and {first.name} is not answered; use --export")
                break
            self.model.ask_all(requests(), take, answered_before=len(self.ledger) > 0)
            self._settle_refusals(asked)
            self.ledger.sync()
            if spent:
                raise InputError("the money limit is reached; answers so far are kept, raise limit.money to go on")
            if not asked:
                break
        if self.failed:
            name, why = next(iter(self.failed.items()))
            raise InputError(
                f"{len(self.failed)} requests to {self.model.model} failed, the first about {name}: {why}; "
                "answers so far are kept, the same command asks them again"
            )

    def _settle_refusals(self, asked: int) -> None:
        """Stores that a server refused a few requests, as those that are too long; InputError where it refused many."""
        if len(self.refused) > max(3, _REFUSED * asked):
            raise InputError(
                f"{self.model.model} refused {len(self.refused)} of {asked} requests, the first about "
                f"{self.refused[0][0].name}: {self.refused[0][1].error}"
            )
        for request, completion in self.refused:
            said = Completion(reason=f"{_BY_SERVER}: {completion.error}")
            store(self.ledger, request.key, request.name, request.attempt, said)

    def take(self, request: Request, completion: Completion) -> None:
        """Stores a completion; one with an error is remembered as failed, or as refused."""
        if completion.refused:
            self.refused.append((request, completion))
            return
        if completion.error:
            self.failed[request.name] = completion.error
            return
        store(self.ledger, request.key, request.name, request.attempt, completion)


def store(ledger: Ledger, key: str, name: str, attempt: int, completion: Completion) -> bool:
    """Appends a completion to a ledger; false where the request has an answer already."""
    answer: dict[str, Any] = {"name": name, "attempt": attempt, "text": completion.text, "reason": completion.reason}
    answer |= {"finished": completion.finished}
    if completion.reasoning and not completion.text.strip():
        answer["reasoning"] = completion.reasoning
    if completion.letters:
        answer["letters"] = completion.letters
    return ledger.add(key, completion.prompt_tokens, completion.completion_tokens, answer)


def read_answer(answer: Mapping[str, Any], want: Want) -> dict[str, Any]:
    """The value in a stored answer; Unusable, with a short reason, where it has none.

    Some servers put the object where the reasoning goes: it is looked for there too, behind the end of the thinking.
    """
    if answer["reason"].startswith(_BY_SERVER):
        raise Unusable("refused by the server")
    said = answer["text"] if answer["text"].strip() else answer.get("reasoning", "")
    said = said.rpartition("</think>")[2]
    if not want.schema:
        if not answer["text"].strip() and not answer.get("letters"):
            raise Unusable("empty answer")
        return {"text": answer["text"], "letters": answer.get("letters", {}), "finished": answer["finished"]}
    try:
        value = parsed(said, want.schema)
    except Unusable as fault:
        if not answer["finished"]:
            blank = not said.strip() or len(said.rstrip()) < len(said) // 2
            raise Unusable("cut off in white space" if blank else "cut off at max_tokens") from None
        raise fault
    if want.check is not None:
        want.check(value)
    return value
