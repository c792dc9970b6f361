"""Domains: what is asked for beside a problem, and when two chains agree. A new one is a file here and a line below."""

from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis.domains import code, math, physics
from promptcot_mamba.synthesis.domains.base import Domain

DOMAINS: dict[str, Domain] = {
    "math": math.DOMAIN,
    "code": code.DOMAIN,
    "physics": physics.DOMAIN,
}


def find_domain(name: str) -> Domain:
    """Raises InputError listing the known ones."""
    if name not in DOMAINS:
        raise InputError(f"domain {name!r}: expected one of {', '.join(DOMAINS)}")
    return DOMAINS[name]
