"""The tables behind the grammar: what Unicode signs, macros and plain words stand for. Data, no code to speak of."""

import re


def words(text: str) -> tuple[str, ...]:
    """Words in order, written as one text."""
    return tuple(text.split())


def names(text: str) -> frozenset[str]:
    """A set of words, written as one text."""
    return frozenset(words(text))


def pairs(text: str) -> dict[str, str]:
    """A mapping, written as `key=value` words."""
    return dict(word.split("=", 1) for word in text.split())


# Unicode sign -> macro (a space follows, so that `2π r` stays two factors).
_MACROS = pairs(
    """
    ×=times ⋅=cdot ·=cdot ∙=cdot ÷=div π=pi √=sqrt ∞=infty ≤=le ⩽=le ≥=ge ⩾=ge ≠=ne ≈=approx ≡=equiv ∪=cup ∩=cap
    ∈=in ∖=setminus ∅=emptyset ±=pm ∓=mp ∠=angle △=triangle ⌊=lfloor ⌋=rfloor ⌈=lceil ⌉=rceil ⟨=langle ⟩=rangle
    ∨=lor ∧=land θ=theta α=alpha β=beta γ=gamma φ=phi ϕ=phi λ=lambda μ=mu ω=omega …=ldots
    """
)
_FRACTIONS = pairs("½=1/2 ⅓=1/3 ⅔=2/3 ¼=1/4 ¾=3/4 ⅕=1/5 ⅖=2/5 ⅗=3/5 ⅘=4/5 ⅙=1/6 ⅚=5/6 ⅛=1/8 ⅜=3/8 ⅝=5/8 ⅞=7/8")
_SIGNS = pairs(
    "∗=* ⁄=/ ∕=/ ′=' ’=' 。=. ∶=: “=\" ”=\" "
    "€=\\eur £=\\gbp ₹=\\inr ¥=\\cny ￥=\\cny ∛=\\sqrt[3] °=^{\\circ} º=^{\\circ}"
)
UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u3000\u200a\u2002\u2003", " "),
        **dict.fromkeys("✓✔☑✅\u200b\u200c\u200d\ufeff\u2060", ""),
        **{sign: f"\\{macro} " for sign, macro in _MACROS.items()},
        **{sign: "\\frac{" + value.replace("/", "}{") + "}" for sign, value in _FRACTIONS.items()},
        **{sign: f"\\mathbb{{{letter}}}" for sign, letter in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},
        **{"¢": " cents ", "，": ", ", "；": "; ", "、": ", "},
        **_SIGNS,
    }
)
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))

TEXT_COMMANDS = names(
    "text mbox textrm textbf textit textsf texttt textnormal mathrm operatorname hbox emph mathsf underline"
)
# Macro or plain word -> the name the grammar knows.
RENAMED = pairs(
    r"""
    dfrac=frac tfrac=frac cfrac=frac dbinom=binom tbinom=binom leq=le geq=ge leqslant=le geqslant=ge leqq=le geqq=ge
    neq=ne lt=< gt=> ast=* lbrace=\{ rbrace=\} lbrack=[ rbrack=] lparen=( rparen=) vert=| lvert=| rvert=| colon=:
    simeq=approx sim=approx doteq=approx varnothing=emptyset backslash=setminus deg=degree vee=or lor=or wedge=and
    land=and infin=infty infinity=infty inf=infty oo=infty Infinity=infty arctg=arctan tg=tan ctg=cot asin=arcsin
    acos=arccos atan=arctan arsinh=arcsinh arcosh=arccosh artanh=arctanh asinh=arcsinh
    acosh=arccosh atanh=arctanh R=reals varphi=phi vartheta=theta varepsilon=epsilon ell=l cdots=dots ldots=dots
    dotsc=dots dotsb=dots mathit=font mathbf=font boldsymbol=font bm=font mathcal=font mathnormal=font boxed=font
    fbox=font framebox=font smash=font choose=choose nicefrac=frac sfrac=frac
    """
)
# Words that plain text spells out, as whole words only: `sqrt(2)`, `2pi`, `3 or 4`.
PLAIN_WORDS = names(
    """
    sqrt cbrt sin cos tan cot sec csc arcsin arccos arctan asin acos atan sinh cosh tanh arsinh arcosh artanh arcsinh
    arccosh arctanh asinh acosh atanh log ln lg exp pi abs floor ceil cis
    infty infinity Infinity inf oo or and max min gcd lcm binom frac cup cap theta alpha beta gamma lambda
    """
)
RELATIONS = names("= < > le ge ne in approx equiv to notin subset subseteq")
FUNCTIONS = names(
    """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh log ln lg exp max min gcd lcm
    cis abs floor ceil cbrt
    """
)
LETTERS = names(
    """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega mho l aleph hbar partial nabla star reals prime
    """
)
ACCENTS = names(
    "overline bar vec hat tilde overrightarrow widehat widetilde underline dot overleftrightarrow underbrace"
)
CURRENCIES = names("usd eur gbp inr cny jpy")
# What is written for them, `$`, `€` and `£` apart.
CURRENCY_CODES = pairs("USD=usd EUR=eur GBP=gbp INR=inr Rs.=inr Rs=inr CNY=cny RMB=cny JPY=jpy")
MATRICES = names("pmatrix bmatrix matrix Bmatrix vmatrix Vmatrix array smallmatrix")
SILENT = names("angle triangle font measuredangle")
# Macros that join, close or qualify, so that no factor can begin with them.
NEVER_STARTS = names(
    """
    cr cdot times div bullet cup cap setminus pm mp rfloor rceil rangle end mid or and degree circ prime hline pmod mod
    bmod choose over
    """
)
UNIT_WORDS = names(
    """
    way people person student apple egg point game coin ball integer value solution box car book page time step triangle
    square marble bird card term digit ticket mph kph sq cu per
    """
)
# A macro that sets its argument as text.
_STYLES = "rm|bf|it|sf|tt|up|md|sc|sl|normal"
TEXT = rf"\\(?:text(?:{_STYLES})?|mbox|hbox|mathrm|mathsf|mathbf|operatorname|emph|rm)(?![A-Za-z])\s*"
# Words by which an answer is only offered.
GUESSES = names(
    "bound guess estimate approximation candidate candidates typo mistake conjecture possibility example examples"
)
# Words that, directly behind a number, change it (`5 squared`, `5 thirds`) or say when, where, how far it holds.
CHANGING_BEHIND = names(
    """
    squared cubed factorial mod modulo root power powers exponent raised choose halves thirds fourths quarters fifths
    sixths sevenths eighths ninths tenths hundredths thousandths out th ish doubled tripled halved
    quadrupled reciprocal inverse negated conjugate complement rounded removed excluded hex binary ppm ppb
    permil permille
    for when where with without to from by in as up down above below beyond and if while although though can't cannot
    hardly barely away asymptotically eventually st nd rd is are was were would could should might may seems appears
    fails looks
    """
)
# What may stand there all the same.
PLAIN_BEHIND = re.compile(
    r"in\.?$|(?:in (?:total|all|each \w+|this case|the (?:end|set|list))|to (?:the nearest \w+|be exact)"
    r"|is (?:(?:the|our|my) (?:\w+ )?(?:answer|result|value|number|solution|maximum|minimum|total|sum)|correct|right)\b"
    r"|for (?:each\.?$|this case)|as (?:required|desired|needed|requested|asked|claimed|expected))\b"
)
# Words that change the value beside them, deny it or offer another; nothing that holds one is a label or a unit.
CHANGING = names(
    """
    not no nor never neither none without isn't wrong incorrect false invalid impossible except unless if otherwise else
    or either maybe perhaps possibly probably mille about
    approximately approx nearly almost roughly around circa between
    less fewer greater more least most minus plus twice thrice double triple half negative opposite divided multiplied
    over than but instead versus until undefined unknown rejected extraneous discarded inadmissible
    """
)
