"""Near-identical concepts merged: one canonical form each, by rules that never guess at meaning.

Two concepts are one if

- their signatures are equal: the same words but for case, accents, possessives, punctuation, articles, plurals, British
  spelling, "area of a triangle" for "triangle area" (a few heads only), and law for rule or principle;
- or they are the same letters, split or hyphenated in another way: "pigeon-hole", "pigeonhole";
- or one is the other's initials, and some seed wrote them together: "greatest common divisor (GCD)";
- or, with embeddings at hand, one's words are among the other's and the cosine is at least a threshold.

Likeness of letters or of embeddings alone would merge "sine rule" with "cosine rule" and "homomorphism" with
"homeomorphism": different concepts are near each other in both. So an embedding only confirms what the words allow,
and every concept joins a more frequent one directly, never through a third: chains of small steps do not drift.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

COSINE = 0.95

Signature = tuple[str, ...]

_WORDS = re.compile(r"[^\W_]+")
_SMALL = frozenset(("a", "an", "the", "of", "and"))  # not "to" or "by": tangents to a circle are no tangent circles
# Heads for which "head of thing" is "thing head"; not of any: a set of powers is no power set.
_HEADS = (
    "areas?|circumference|definition|degree|domain|factori[sz]ation|formulas?|formulae|laws?|length|method|perimeter|"
    "principles?|propert(?:y|ies)|range|rules?|slope|theorem|vertex|vertices|volumes?"
)
_OF = re.compile(rf"^(?:(?:an?|the)\s+)?({_HEADS})\s+of\s+(?:(?:an?|the)\s+)?(.+)$")
_BRACKETS = re.compile(r"^(.+?)\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]$")
_POSSESSIVE = re.compile(r"(?<=\w)'s\b|(?<=s)'(?=\s|$)")
_BRITISH = re.compile(r"(?<=[a-z]{4})is(?=(?:e|ed|es|er|ing|ation|able)$)")  # factorisation -> factorization
_IRREGULAR = {
    "formulae": "formula", "indices": "index", "vertices": "vertex", "matrices": "matrix", "axes": "axis",
    "radii": "radius", "loci": "locus", "foci": "focus", "maxima": "maximum", "minima": "minimum",
    "extrema": "extremum", "zeroes": "zero", "analyses": "analysis", "hypotheses": "hypothesis",
    "parentheses": "parenthesis", "ellipses": "ellipse", "bases": "bases",  # of a base, or of a basis
    "centre": "center", "centres": "center", "colouring": "coloring", "colour": "color", "modelling": "modeling",
    "rule": "law", "rules": "law", "principle": "law", "principles": "law",
}  # fmt: skip


def concept_signature(concept: str) -> Signature:
    """The words by which two spellings of one concept are told to be the same; never empty."""
    text = _plain(concept)
    reordered = _OF.match(text)
    if reordered and " of " not in reordered[2]:  # "law of sines" -> "sines law"; longer chains stay
        text = f"{reordered[2]} {reordered[1]}"
    words = _WORDS.findall(text)
    kept = [word for word in words if word not in _SMALL] or words
    return tuple(_root(word) for word in kept) or (text,)


def _plain(concept: str) -> str:
    """Lower case, without accents and possessives."""
    text = unicodedata.normalize("NFKD", concept).casefold().replace("\u2019", "'")
    return _POSSESSIVE.sub("", "".join(char for char in text if not unicodedata.combining(char)))


def _root(word: str) -> str:
    return _IRREGULAR.get(word) or _BRITISH.sub("iz", _singular(word))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "zzes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def merge_concepts(
    concept_lists: Sequence[Sequence[str]],
    embeddings: Mapping[str, Sequence[float]] | None = None,
    cosine: float = COSINE,
) -> dict[str, str]:
    """Map every concept to its canonical form: of those that are one the most frequent, then the shortest.

    `embeddings` holds a vector for every concept, or is None.
    """
    counts = Counter(concept for concepts in concept_lists for concept in concepts)
    initials = find_initials(counts)
    groups: dict[Signature, list[str]] = defaultdict(list)
    for concept in counts:
        groups[_expand(concept, initials)].append(concept)
    faces = {
        signature: min(members, key=lambda concept: (-counts[concept], len(concept), concept))
        for signature, members in groups.items()
    }
    totals = {signature: sum(counts[member] for member in members) for signature, members in groups.items()}
    ranked = sorted(groups, key=lambda signature: (-totals[signature], len(faces[signature]), faces[signature]))
    vectors = None
    if embeddings is not None:
        vectors = {signature: _unit(embeddings[face]) for signature, face in faces.items()}
    leaders = find_leaders(ranked, vectors, cosine)
    return {concept: faces[leaders[signature]] for signature, members in groups.items() for concept in members}


def find_initials(concepts: Iterable[str]) -> dict[str, Signature]:
    """Initials, in lower case -> signature of what they stand for, where exactly one expansion is written beside them.

    Either may stand in the brackets: "LCM (least common multiple)" too.
    """
    meant: dict[str, set[Signature]] = defaultdict(set)
    for concept in concepts:
        parts = _BRACKETS.match(concept)
        for short, long in ((parts[2], parts[1]), (parts[1], parts[2])) if parts else ():
            words = [word for word in re.split(r"[\s-]+", _plain(long)) if word and word not in _SMALL]
            if len(words) > 1 and _letters(short) == "".join(word[0] for word in words):
                meant[_letters(short)].add(concept_signature(long))
    return {short: next(iter(signatures)) for short, signatures in meant.items() if len(signatures) == 1}


def _letters(text: str) -> str:
    return "".join(_WORDS.findall(_plain(text)))


def _expand(concept: str, initials: Mapping[str, Signature]) -> Signature:
    """The signature; of initials, alone or in brackets beside their expansion, that of what they stand for."""
    if (whole := initials.get(_letters(concept))) is not None:
        return whole
    parts = _BRACKETS.match(concept)
    for short, long in ((parts[2], parts[1]), (parts[1], parts[2])) if parts else ():
        if initials.get(_letters(short)) == concept_signature(long):
            return concept_signature(long)
    return concept_signature(concept)


def find_leaders(
    ranked: Sequence[Signature], vectors: Mapping[Signature, np.ndarray] | None, cosine: float
) -> dict[Signature, Signature]:
    """Each signature -> the earlier leader that it is another spelling of, or itself; most frequent first."""
    leaders: dict[Signature, Signature] = {}
    spelled: dict[str, Signature] = {}  # letters without spaces -> leader
    holders: dict[str, list[Signature]] = defaultdict(list)  # word -> leaders that hold it
    for signature in ranked:
        found = spelled.get("".join(signature))
        if found is None and vectors is not None:
            found = _nearest(signature, holders, vectors, cosine)
        leaders[signature] = signature if found is None else found
        if found is None:
            spelled["".join(signature)] = signature
            for word in set(signature):
                holders[word].append(signature)
    return leaders


def _nearest(
    signature: Signature, holders: Mapping[str, list[Signature]], vectors: Mapping[Signature, np.ndarray], cosine: float
) -> Signature | None:
    """The leader of highest cosine, at least `cosine`, whose words hold this one's or are held by them."""
    own = set(signature)
    nested = {each for word in own for each in holders.get(word, ()) if own <= set(each) or set(each) <= own}
    scored = [(float(vectors[signature] @ vectors[each]), each) for each in nested]
    best = max(scored, default=None)
    return best[1] if best is not None and best[0] >= cosine else None


def _unit(vector: Sequence[float]) -> np.ndarray:
    array = np.asarray(vector, dtype=np.float64)
    return array / (np.linalg.norm(array) or 1.0)
