"""Rewards and a loss of one's own."""


def brief(completions, num_tokens, limit=8):
    """1 for an answer of at most `limit` tokens, else what is left of 1 when a tenth is lost per token."""
    return [max(0.0, 1.0 - 0.1 * max(0, count - limit)) for count in num_tokens]


def names_an_option(completions, choices):
    """1 where exactly one of the options is named, whichever; None where options contain each other."""
    scores = []
    for text, options in zip(completions, choices, strict=True):
        nested = any(a != b and a.lower() in b.lower() for a in options for b in options)
        scores.append(None if nested else float(sum(option.lower() in text.lower() for option in options) == 1))
    return scores


def only_what_was_good(
    logprob, old, advantages, mask, *, denominator, clip=None, penalty=None, correction=None, weights=None
):
    """Raises the log-probs of completions that were better than their group, and leaves the others alone."""
    loss = -advantages.clamp(min=0.0)[:, None] * logprob
    if penalty is not None:
        loss = loss + penalty
    return (loss * mask).sum() / denominator


only_what_was_good.denominator = "tokens"  # what is counted over the whole step
