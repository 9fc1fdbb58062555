"""Mentions of an option's letter in a text, and what is said of each: chosen, denied, asked about, in a list.

A mention is marked where it can be nothing but a letter, as "(B)", "option B" or "B. Dog" before that option's text. A
bare capital is one unless it is part of something else: "A" before another word is an article, "I" a pronoun,
"C major", "B-flat" and "C4" are tones. Bare small letters count too, "a" and "i" at the end of a phrase alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from string import ascii_uppercase
from typing import NamedTuple

_TAGS = re.compile(r"<\|[^|<>]*\|>|</?\w{2,}>|</\w>")
_LATEX = re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:bf|rm|it|sf)?|bf|rm|boxed)\s*\{([^{}]*)\}")


# In the text that the patterns see, a mention is one of two signs, hard or soft, and the letter as a capital.
_HARD, _SOFT = "\x02", "\x01"
_UNMARKED = dict.fromkeys(map(ord, _HARD + _SOFT), " ")
_M = "[\x01\x02][A-Z]"
_IS = r"(?:is|are|was|were|would\ be|must\ be|should\ be|has\ to\ be|will\ be|could\ be|might\ be|can\ only\ be)"
_WRAPPED = re.compile(
    r"(?<!\w)(?:\(\s*([A-Za-z])\s*[.:)]?\s*\)|\[\s*([A-Za-z])\s*\]|\{\s*([A-Za-z])\s*\}|<\s*([A-Z])\s*>"
    r"|\*{1,3}([A-Za-z])[.:)]?\*{1,3}|`([A-Za-z])`|\"([A-Z])[.]?\"|'([A-Z])[.]?')(?!\w)"
)
_AFTER_LETTER = (
    r"(?![A-Za-z0-9_\u266d\u266f#+&@\xc0-\u052f]|'[A-Za-z]|-\w|\.[A-Za-z](?:\.|\s|$)"
    r"|\s+(?i:major|minor|sharp|flat|maj|min|natural)\b)"
)
_VERB = (
    r"(?:is|are|was|were|isn't|aren't|wasn't|and|or|nor|because|since|as|but|fits?|seems?|sounds|looks|matches"
    r"|would|could|can|cannot|can't|must|should|may|might|has|have|does|doesn't|do|don't|did|didn't|won't|appears"
    r"|not|then|also|here|instead|over|over\s+the|rather|which|while|though|although|if|it|for|due|based|with|too"
    r"|makes|describes|represents|remains|best)\b"
)
_ARTICLE = rf"(?!\s+(?!{_VERB})[\w\"'])"  # another word follows
_NAMED = re.compile(
    r"\b(?i:options?|choices?|letters?)(?:\s*[:#-])?\s+"
    rf"(?:([B-HJ-Zb-hj-z])|([AIai]){_ARTICLE}){_AFTER_LETTER}"
)
_BARE = re.compile(
    r"(?<![A-Za-z0-9_'&@#\\\x01\x02\xc0-\u052f])(?<!\w-)(?<!\b[A-Za-z]\.)"
    rf"(?:([B-HJ-Zb-hj-z])|([AI]){_ARTICLE}|([ai])(?=\s*(?:$|[.,;:)!\n])))"
    rf"{_AFTER_LETTER}"
)
_OR = r"(?:and/or|and|or|nor)(?:\s+(?:also|maybe|possibly|perhaps|even|either|both))?"
_AND = rf"\s*[,/&+]\s*(?:{_OR}\s+)?|\s+{_OR}\s+|\s*[\u548c\u6216\u4e0e\u8ddf]\s*|\s*\u8fd8\u662f\s*"
_GROUP = re.compile(rf"{_M}(?:(?:{_AND}){_M})*")
_FILL = (
    r"(?:\W*\b(?:the|that|most|more|likely|probably|perhaps|maybe|clearly|definitely|simply|just|indeed|then|therefore"
    r"|thus|option|answer|choice|letter|number|correct|right|best|final|actually|again|it|it's|be)\b)*[\s:=>\"'\-(\[]*"
)
_ANSWER_IS = (
    r"(?<!\w)(?:answers?|antwort|r\xe9ponse|respuesta|resposta|risposta|\u043e\u0442\u0432\u0435\u0442)"
    r"(?:\s+(?:to|for|of)(?:\s+\w+){1,4}?)?(?:\s+(?:here|option|choice|letter|with))?[\s:=>\"'\-]*"
    rf"(?:\b{_IS}\b|\b(?:ist|est|es|\xe8|\xe9)\b)?"
)
_CHOICE_IS = (
    rf"\b(?:choice|option|letter|pick|selection|guess|vote|bet|decision|response|reply|prediction)\s*(?:{_IS}|[:=>-])"
    r"|\b(?:final|conclusion|result|selected|prediction|response|output|solution|verdict)"
    r"(?:\s+(?:choice|option|letter|pick|decision))?\s*[:=>-]"
)
_I_CHOOSE = (
    r"\b(?:i|we|i'd|i'll|we'd|i've|i'm)\b(?:(?!not\b|n't|never|cannot|between)[^.;\n\x01\x02]){0,30}?"
    r"\b(?:choose|chose|chosen|pick|picked|select|selected|say|(?:go|going|went)\s+(?:with|for)|opt\s+for|vote\s+for"
    r"|settle\s+on|conclude|answer|guess|bet\s+on|lean(?:ing)?\s+towards?|prefer|favou?r)"
    rf"(?:\s+that)?(?:\s+{_IS})?"
)
_NO_IT_IS = r"\b(?:no|nope)[,.:;!-]|\b(?:wait|actually|correction|sorry|rather)[,.:;!\s-]+(?:no[,.:;\s]+)?"
_IN_CHINESE = (
    r"(?<!\u4e0d)(?:\u7b54\u6848|\u6b63\u786e\u9009\u9879|\u9009\u9879|\u9009\u62e9|\u5e94\u9009|\u6545\u9009|\u9009|\u7b54\u3048|\u6b63\u89e3|\uc815\ub2f5(?:\uc740)?)"
    r"\s*(?:\u5e94\u8be5|\u5e94|\u5c31|\u53ea\u80fd)?(?:\u662f|\u4e3a|\u9009\u9879|\u9009|\u306f)*[\s:,\"'(\[]*"
)
_FINAL_BEFORE = re.compile(rf"(?:(?:{_ANSWER_IS}|{_CHOICE_IS}|{_I_CHOOSE}){_FILL}|{_IN_CHINESE})$", re.IGNORECASE)
_CORRECTED = re.compile(rf"(?:{_NO_IT_IS}){_FILL}$", re.IGNORECASE)
_FINAL_AFTER = re.compile(
    r"\W{0,3}(?:(?:is|was|'s|must\s+be|should\s+be|has\s+to\s+be|would\s+be|seems(?:\s+to\s+be)?|appears\s+to\s+be)\s+"
    r"(?:(?:clearly|definitely|probably|therefore|thus|indeed|most|more|the|my|only|single|best|final|likely|also)\s+)*"
    r"(?:(?:correct|right)(?!\s+(?:before|after|next|behind|there|here|now|at|beside))|answer|choice|option|one\b|best\b"
    r"|most\s+likely|likely\s+(?:answer|option|choice))"
    r"|\u662f\u6b63\u786e|\u662f\u5bf9\u7684|\u6b63\u786e)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"(?:^|[\n.;:,!?>\x02]|\b(?:option|answer|choice|letter|so|therefore|thus|hence|that|think|believe|because|and|but|since"
    r"|clearly|only|then|means|say|conclude|guess)[,:]?)\s*$",
    re.IGNORECASE,
)
_WEAK_BEFORE = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|consequently|ergo|meaning|means|suggests?|indicates?|points?\s+to(?:wards?)?"
    r"|leaves?(?:\s+us)?(?:\s+with)?|leaving(?:\s+us)?(?:\s+with)?|left\s+with|namely|think|believe|guess|suppose|reckon|feel|maybe"
    r"|probably|perhaps|likely|possibly|(?:sounds|looks|seems)\s+(?:most\s+|more\s+)?like|choose|pick|select|choosing"
    r"|picking|selecting|chose|picked|selected|(?:go|going)\s+with|(?<!everything\s)(?<!anything\s)(?<!all\s)but(?:\s+rather)?|it's|that's)"
    rf"|\b(?:it|that|this|which|one|match|fit|best|likely|plausible|correct|right|appropriate|accurate|true|left|remaining)\s+{_IS}"
    rf"|[>\u2234]|\u6240\u4ee5|\u56e0\u6b64|\u662f|\u5e94\u8be5\u662f){_FILL},?\s*$",
    re.IGNORECASE,
)
_WEAK_AFTER = re.compile(
    r"\W{0,3}(?:fits|matches|(?:it\s+is|it's)\b|(?:is|seems|sounds|looks|would\s+be)\s+(?:the\s+)?(?:most\s+|more\s+)?"
    r"(?:likely|plausible|right|correct|fitting|appropriate))",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|rather\s+than|instead\s+of|except(?:\s+for)?|excluding|without|eliminat\w+|exclud\w+"
    r"|rul\w+\s+out|discard\w*|reject\w*|dismiss\w*|other\s+than|than|unlike|cannot)|n't|\bnon|\u4e0d(?:\u662f|\u9009|\u5e94\u9009)?"
    r"|\u6392\u9664|\u800c\u975e)(?:\W*\b(?:be|the|an?|answer|options?|choice|letter|either|both|likely|to|choose|pick"
    r"|with|is|think|believe|say|that|it|it's|go)\b)*[\s:\"'(\[]*$",
    re.IGNORECASE,
)
_SO = r"(?:(?:both|all|each|clearly|also|definitely|probably|therefore|thus)\s+)*"
_DOES = (
    r"(?:is|are|was|were|seems?|sounds?|looks?|can|could|would|does|do|did|has|have|may|might|be)\s+"
    r"(?:(?:both|all|clearly|also|definitely|probably|simply|just|be|to|an?|the|very|quite|obviously|therefore)\s+)*"
)
_NO = (
    r"(?:not\b(?!\s*[\x01\x02])|wrong|incorrect|unlikely|impossible|false|excluded|eliminated|ruled\s+out|implausible"
    r"|improbable|inconsistent|irrelevant|[a-z]+n't\b|cannot|\u4e0d|\u9519|\u6392\u9664)"
)
_DENIED_LATER = re.compile(
    rf"(?:\s*\([^()\n]{{0,80}}\)|\s*,[^,.\n\x01\x02]{{1,40}},)?\W{{0,3}}{_SO}"
    rf"(?:{_DOES}(?:{_NO}|out\b|less\b|too\b|never)|[a-z]+n't\b|cannot|\u4e0d)|\s-\s?no\b",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(rf"[\s:,\-)('\"]{{0,3}}{_SO}(?:{_NO}|(?<=[?-] )no\b)", re.IGNORECASE)
_ASKED_AFTER = re.compile(r"\W{0,2}\?")
_BEGINNING = re.compile(
    r"(?:[\W_]*$|\s*[.):,;\]}>]|[ \t]*\n|[\"'`*_]+(?!\w)|\s+-\s|\s+(?:because|since|as|is\s+(?:correct|right))\b)"
)


class Mention(NamedTuple):
    """Letters named together, and how.

    marked: nothing but a letter. denied: ruled out or asked about, so none of what follows. final: in a final phrase.
    weak: behind "so", "it is" and the like, or at the very end. begins: the text begins with it.
    """

    letters: frozenset[str]
    marked: bool
    denied: bool
    final: bool
    weak: bool
    begins: bool

    @property
    def only(self) -> str:
        """The letter, "" where several stand together."""
        return next(iter(self.letters)) if len(self.letters) == 1 else ""


def unwrapped(text: str) -> str:
    """A text without LaTeX around its words."""
    return re.sub(r"\\[()\[\],;! ]|\$", "", _LATEX.sub(r"\1", text)).strip()


def mentions(text: str, choices: Sequence[str], letters: str) -> list[Mention]:
    """All mentions of letters in a text, in its order."""

    def mark(sign: str) -> Callable[[re.Match[str]], str]:
        def made(found: re.Match[str]) -> str:
            letter = next(group for group in found.groups() if group).upper()
            return sign + letter if letter in letters else found[0]

        return made

    if "\\" in text or "$" in text:
        text = unwrapped(text)
    if "<" in text:
        text = _TAGS.sub(" ", re.sub(r"<(\w+)>(.*?)</\1>", r" \2 ", text, flags=re.DOTALL))
    text = _WRAPPED.sub(mark(_HARD), text.translate(_UNMARKED))
    text = re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", text)
    text = _BARE.sub(mark(_SOFT), _NAMED.sub(mark(_HARD), text))
    found = []
    for group in _GROUP.finditer(text):
        for start, end in _lists(text, group):
            own = _own_words(text, start + 2, choices)
            found.append(_mention(text, start, start + 2 if own else end, own))
            if own:  # what else seems to be of the list is part of these words
                break
    return found


def _own_words(text: str, end: int, choices: Sequence[str]) -> int:
    """Signs from a mention's end to that of its option's own text, as in "B. Dog"; 0 where that does not follow."""
    rest = text[end:].lstrip(" \t.:,)([=/-\"'")
    gap = len(text) - end - len(rest)
    if not text[end : end + gap].strip() and text[end - 1] in "AI":  # "A dog"
        return 0
    option, length = choices[ascii_uppercase.index(text[end - 1])].strip().lower(), 0
    for letter in option:
        length += rest[length : length + 1] in (_HARD, _SOFT)
        if rest[length : length + 1].lower() != letter:
            return 0
        length += 1
    return 0 if option[-1:].isalnum() and rest[length : length + 1].isalnum() else gap + length


def _lists(text: str, found: re.Match[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the lists in a run of letters: a letter that was named already begins another."""
    start, end, seen = found.start(), found.start(), set[str]()
    for place in range(found.start(), found.end()):
        if text[place] in (_HARD, _SOFT):
            if text[place + 1] in seen:
                yield start, end
                start, seen = place, set()
            seen.add(text[place + 1])
            end = place + 2
    yield start, end


def _mention(text: str, start: int, end: int, own: int) -> Mention:
    """own: signs behind it that repeat its option's own text."""
    named, before, after = text[start:end], text[max(0, start - 80) : start], text[end : end + 120]
    behind = text[end + own : end + own + 120]
    one, between, marked = len(named) == 2, after.lstrip()[:1], _HARD in named or own > 0
    denied = _DENIED_BEFORE.search(before) or _DENIED_LATER.match(behind) or (not own and _DENIED_AFTER.match(after))
    if denied or _ASKED_AFTER.match(behind):
        return Mention(_letters(named), marked, True, False, False, False)
    clause = marked or bool(_CLAUSE.search(before))
    final = (
        _FINAL_BEFORE.search(before)
        or (_CORRECTED.search(before) and not own and not after.startswith(")"))
        or (clause and _FINAL_AFTER.match(behind))
    )
    ends = not after.strip(" \t\n.!\"')]") and re.search(r"[.:;,!\n-]\s*$", before)
    weak = ends or _WEAK_BEFORE.search(before) or (clause and _WEAK_AFTER.match(behind))
    begins = marked or _BEGINNING.match(after) or (between in tuple("([=") and named[1] not in "AI")
    begins = one and begins and not re.search(r"\w", before)
    return Mention(_letters(named), marked, False, bool(final), bool(weak), bool(begins))


def _letters(named: str) -> frozenset[str]:
    return frozenset(re.findall("[\x01\x02]([A-Z])", named))
