"""How processes meet: what torchrun's environment must say, and a secret that all of them must know."""

import hmac
import os
import secrets
from collections.abc import Sequence

import torch
import torch.distributed as dist

from deca_lab.errors import BadInput, check

SECRET = "DECA_LAB_SECRET"  # of the environment; without it every process holds the empty one


def number_of(name: str, least: int, usual: str = "") -> int:
    """Return a whole number of the environment; raise BadInput where it is none, or too small."""
    text = os.environ.get(name, usual)
    known = text.isascii() and text.isdecimal() and len(text) < 8 and int(text) >= least
    check(known, name, text, f"a whole number, {least} or more, as torchrun sets it")
    return int(text)


def require_place() -> None:
    """Raise BadInput unless the environment says who this process is, and where it meets the others."""
    rank, size = number_of("RANK", 0), number_of("WORLD_SIZE", 1)
    check(rank < size, "RANK", rank, f"below WORLD_SIZE = {size}")
    port, host = number_of("MASTER_PORT", 1), os.environ.get("MASTER_ADDR")
    check(port < 2**16, "MASTER_PORT", port, "a port, from 1 to 65535")
    check(bool(host), "MASTER_ADDR", host, "the name or address of rank 0's machine")


def require_secret(rank: int, size: int) -> None:
    """Raise BadInput, on every rank, unless all ranks hold the same DECA_LAB_SECRET.

    Each draws a nonce and answers all nonces with an HMAC under its secret: that shows that it knows the secret, at this
    meeting. Nothing that follows is encrypted or signed: who sits on the line, or talks to torch's store at MASTER_PORT
    itself, is not stopped. On a network of others, let the processes meet inside a tunnel (WireGuard, SSH).
    """
    secret = os.environ.get(SECRET, "").encode(errors="surrogateescape")
    nonces = _everyones(secrets.token_bytes(32), size)
    answers = _everyones(_answer(secret, rank, nonces), size)
    due = [_answer(secret, other, nonces) for other in range(size)]
    pairs = enumerate(zip(answers, due, strict=True))
    strange = [str(other) for other, pair in pairs if not hmac.compare_digest(*pair)]
    if strange:
        raise BadInput(
            f"{SECRET} of rank {rank} is not that of rank {', '.join(strange)}: "
            "every process of a run needs the same one"
        )


def _answer(secret: bytes, rank: int, nonces: Sequence[bytes]) -> bytes:
    """Return what a rank that knows the secret says to these nonces."""
    return hmac.digest(secret, b"".join([b"deca_lab %d " % rank, *nonces]), "sha256")


def _everyones(words: bytes, size: int) -> list[bytes]:
    """Return the 32 bytes of every rank."""
    mine = torch.tensor(list(words), dtype=torch.uint8)
    all_ranks = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(all_ranks, mine)
    return [bytes(one.tolist()) for one in all_ranks]
