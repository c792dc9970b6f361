r"""Instructions to who reads a problem: words to a model or a judge, which a problem never needs, and chat markers.

Problems have judges, graders, assistants, verdicts and instructions of their own ("You are a judge at a baking
contest", "output the verdict: AC or WA"). So a role counts where its clause ends ("You are a judge."), and a verdict or
"perfect" where the sentence rates what is read rather than says when a program prints it.
"""

import re

_READER = r"(?:reviewer|grader|judge|evaluator|rater|assistant)s?"
_ADJECTIVE = (
    "(?:helpful|honest|harmless|impartial|unbiased|strict|lenient|generous|kind|friendly|fair|good|obedient|careful|large"
    "|new|powerful|advanced|unrestricted|experienced|skilled|expert|senior|professional|automated|intelligent|ai)"
)
_MODEL = (
    r"(?:an? )?(?:ai(?: (?:language )?model| assistant| system| chatbot| agent)?|(?:large )?language model|llm"
    r"|chat ?gpt|gpt-?\d\w*|chatbot|(?:helpful|virtual|digital|personal|ai) assistant)"
)
_CLAUSE_ENDS = r"\s*(?:[.,;:!?)\"'\n–—]|-\s|\Z)"
_ROLE = (
    r"\b(?:you are|you're|act as|pretend to be|pretend you are|behave as|behave like)[ \t]+"
    r"(?:(?:now|just|only|simply|really|actually|still|not|no longer|in fact)[ \t]+){0,2}"
    rf"(?:(?:an?|the|my|our|this|their)[ \t]+)?(?:{_ADJECTIVE}[ \t,]+){{0,4}}"
)
_THIS = r"(?:this|the)[ \t]+(?:problem|question|task|text|submission|rationale|one|work)"
_OPEN = r"(?<!the )(?<!a )(?<!each )(?<!every )(?<!one )(?<!any )(?<!that )"  # before a verb that may be a noun
_NOUN_AHEAD = (  # "perfect" of something
    r"(?![ \t-](?:squares?|numbers?|cubes?|powers?|binary|matchings?|trees?|graphs?|sets?|information|play|codes?"
    r"|hash\w*|strings?|substrings?|arrays?|subsets?|partitions?|pairs?|games?|strategy|shuffles?|elimination|competition)\b)"
)
_ASKED = r"(?:give|assign|award|output|say|respond with|reply with|answer with|return|write|print)"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


_INJECTED = _any(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|preceding|all|any|these"
    r"|your|system)\b[^.\n]{0,20}\b(?:instruction|prompt|rule|message|direction|guideline|criteri|context)"
    # "ignore any instruction that would move it off the grid"
    r"(?!\w*[ \t]+(?:that|which)[ \t]+(?:would|leads?|moves?|makes?|takes?|goes|causes?|cannot|can't)\b)",
    rf"{_ROLE}(?:{_MODEL})(?:{_CLAUSE_ENDS}|[ \t]+(?:that|who|which|with|without|and|or|whose|for|tasked|asked"
    r"|instructed|trained|programmed|created|developed|made|designed|built)\b)",
    rf"{_ROLE}(?:ai[ \t]+)?{_READER}(?:{_CLAUSE_ENDS}|[ \t]+(?:of|for)[ \t]+{_THIS}\b"
    r"|[ \t]+(?:that|who|which|with|without|and)\b[^.\n]{0,60}\b(?:rat(?:e|es|ing)|perfect|approves?|accepts?|agrees?"
    r"|lenient|praises?|likes?|loves?|always|instruct\w*|rules?|limits?|restrictions?)\b)",
    rf"\bas {_MODEL}(?:{_CLAUSE_ENDS}|[ \t]+(?:i|you|we|my|your|it)\b)|\bsystem prompt\b",
    r"\b(?:ignore|disregard|forget|override|bypass|reveal|repeat|recite|leak|disclose|violate|change|update|replace|quote"
    r"|according to|in line with|against|per|what (?:are|were))\b[^.\n]{0,30}"
    r"\byour (?:\w+[ \t]+)?(?:instructions|guidelines)\b",
    r"\byour (?:new|real|true|actual|updated|only|initial|original|system) (?:instructions|guidelines)\b",
    r"\byour (?:instructions|guidelines)[ \t]+(?:(?:are|is)[ \t]+(?:now|to|that|void|no longer|changed|updated"
    r"|cancel\w*|wrong|suspended|over)\b|(?:have|has)[ \t]+(?:been[ \t]+)?(?:changed|updated|replaced|cancel\w*)"
    r"|say\b|require\b)",
    r"\b(?:print|output|show|give|write)[ \t]+(?:me[ \t]+|us[ \t]+|out[ \t]+)?(?:all[ \t]+(?:of[ \t]+)?)?"
    rf"your (?:instructions|guidelines)(?:{_CLAUSE_ENDS}|[ \t]+(?:verbatim|word|above|before|first|instead)\b)",
    r"\b(?:recall|remember|reveal|leak|seen|appear\w*|contained|included|is|was)\b[^.\n]{0,30}\byour training data\b",
    r"\b(?:ignore|disregard|forget)\b[^.\n]{0,20}\b(?:instruction|rule|prompt|criteri|guideline)\w*[^.\n]{0,10}"
    r"\b(?:above|before|earlier|previous|given)",
    rf"{_OPEN}\b(?:rate|judge|grade|score|evaluate|assess)\b[^.\n]{{0,15}}\b(?:this|the problem|it|me|everything)\b"
    rf"[^.\n]{{0,25}}\b(?:perfect|acceptable)\b{_NOUN_AHEAD}",
    # "consider it as a perfect binary tree", "if it divides n, mark it as perfect"
    rf"{_OPEN}\b(?:mark|consider)\b[^.\n]{{0,15}}\b(?:this|the problem|me|everything)\b[^.\n]{{0,25}}"
    rf"\b(?:perfect|acceptable)\b(?:{_CLAUSE_ENDS}|[ \t]+(?:in|on|and|regardless|whatever|no matter|without|because"
    r"|since)\b)",
    r"(?:\A|[.!?\n])(?:(?!\b(?:if|when|whenever|otherwise|else)\b)[^.!?\n]){0,200}\b(?:mark|consider)\b[^.\n]{0,15}\bit\b"
    rf"[^.\n]{{0,25}}\b(?:perfect|acceptable)\b(?:{_CLAUSE_ENDS}|[ \t]+(?:in|on|and|regardless|whatever|without)\b)",
    rf"\bfinal judge?ment[ \t]*[:=]|\b(?:note to|dear|attention)[ \t]+(?:the )?{_READER}\b",
    rf"\b{_READER} (?:must|should|has to|have to) (?:accept|approve|(?:rate|give|output|answer|mark)"
    # "each judge must give a score from 0 to 10"
    r"(?![ \t]+(?:an?(?![ \t]+(?:perfect|high|good|top|full))|one|exactly|at (?:least|most)|different|distinct|each"
    r"|every|two|three|\d+|n|integers?|scores?)\b))\b",
    r"\b(?:do not|don't|never) (?:solve|answer|attempt) (?:this|the) (?:problem|question)\b",
    r"<\|[\w ]{1,40}\|>|<｜[^｜]{1,40}｜>|\[/?INST\]|<</?SYS>>|</?(?:think|rationale|problem|system|assistant|user)>",
    r"<!--[^>]*-->",
    r"^#{2,}[ \t]*(?:system|instruction|assistant|user)s?[ \t]*:",
    r"^#{2,}[ \t]*(?:system(?:[ \t]+(?:prompt|message))?|instructions?|assistant|user)[ \t]*$",
    r"(?:忽略|无视)[^。\n]{0,12}(?:指令|指示|要求|提示)",
)
# Words that ask for a verdict, which a program may be asked for, too.
_ASKS_VERDICT = _any(
    rf"\b{_ASKED}\b[^.\n]{{0,40}}(?:\bfinal judge?ment\b|\bverdict\b|\bperfect judge?ment\b|['\"“]perfect['\"”])",
    rf"\b{_ASKED}\b[^.\n]{{0,40}}\b(?:perfect|highest) (?:score|rating)\b",
)
_SENTENCE = re.compile(r"(?:[^.!?\n]|\.(?=\w))*")
_RATES = _any(  # what is read, not what a program reads
    r"\bperfect[ \t]+(?:rating|judge?ment)\b(?![ \t]+(?:of|among|by|that|which|any|over|so far)\b)",
    r"\bverdict\b[^.\n]{0,25}\b(?:perfect|acceptable)\b|\b(?:perfect|acceptable|positive|favou?rable) verdict\b",
    rf"\b(?:this|the)[ \t]+(?:problem|rationale|submission)\b|\bcriteri(?:on|a)\b|\b(?:your|my)[ \t]+(?:final[ \t]+)?"
    rf"(?:rating|judge?ment|verdict|review)\b|\bfinal judge?ment\b|\bas (?:a|the)[ \t]+{_READER}\b",
    r"\b(?:respond|reply)[ \t]+with\b|\b(?:give|assign|award)[ \t]+(?:it|this|me|us|everything)\b",
    r"(?:\A|[.!?:;\n])\W{0,9}(?:(?:please|just|now|then|simply|always|only)[ \t]+){0,3}(?:give|award|assign|say)[ \t]+"
    r"(?:(?:a|an|the|only|it|this|me)[ \t]+)*['\"“]?(?:perfect|highest)['\"”]?"
    rf"(?:[ \t]+(?:possible[ \t]+)?(?:rating|score|judge?ment|marks?))?(?:{_CLAUSE_ENDS}|[ \t]+(?:to|for|in|on|now)\b)",
)
_BARE_RATING = _any(rf"\b{_ASKED}\b[^.\n]{{0,40}}\bhighest rating{_CLAUSE_ENDS}")
_CONDITION = re.compile(r"\b(?:if|when|whenever|otherwise|else|for each|how many|number of|depending)\b", re.I)


_RATING_WORD = re.compile(r"\brat(?:e[sd]?|ings?)\b", re.I)


def is_injected(problem: str) -> bool:
    """Whether a problem gives instructions to who reads it."""
    if _INJECTED.search(problem) or any(map(_asks_verdict, _sentences_of_verdicts(problem))):
        return True
    # "Print the highest rating." is a program's to do where there are ratings.
    return _BARE_RATING.search(problem) is not None and len(_RATING_WORD.findall(problem)) == 1


def _sentences_of_verdicts(problem: str) -> list[str]:
    """The sentences that ask for a verdict or a perfect rating, with the end of the one before."""
    found = []
    for start in (match.start() for match in _ASKS_VERDICT.finditer(problem)):
        begin = max(0, *(problem.rfind(mark, 0, start) for mark in (". ", "!", "?", "\n", "。")))
        found.append(problem[begin:start] + _SENTENCE.findall(problem[start:])[0])
    return found


def _asks_verdict(sentence: str) -> bool:
    """Whether such a sentence rates what is read: in words, or, with a word to be said, under no condition."""
    if _RATES.search(sentence):
        return True
    says_perfect = re.search(r"['\"“]perfect['\"”]", sentence, re.I)
    return says_perfect is not None and _CONDITION.search(sentence) is None
