"""Converts answers in Unicode and calculator notation to LaTeX that math-verify reads.

    √(x²+1)/2,  sqrt(x**2+1)/2   ──>   \\sqrt{x^{2}+1}/2
    e^{\\mathrm{i}π},  e^(i*pi)   ──>   e^{i\\pi}

A name without a backslash is translated only where it cannot be an ordinary word: in `sin(x)` and `2*pi`, but not in
`a pi chart`, and never inside `\\text{}`. `log` is not changed to `ln`; math-verify reads it to base 10.

All functions take time proportional to the text's length.
"""

import re
import unicodedata

# --- Unicode --------------------------------------------------------------------------------------

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₐₓᵢ", "0123456789+-=()naxi", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_SMALL_FRACTION = re.compile("(?<![⁰¹²³⁴-⁹])([⁰¹²³⁴-⁹]+)[⁄/]([₀-₉]+)")
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞↉]")

# Characters whose meaning NFKC would change: it turns ℝ into R, and º into o.
_KEPT = str.maketrans(
    {
        **{letter: rf"\mathbb{{{plain}}} " for letter, plain in zip("ℝℤℚℕℂ", "RZQNC", strict=True)},
        **dict.fromkeys("º˚", "°"),
        **dict.fromkeys("\u200b\u2060\u2061\u2062\u2063\u2064\ufeff", ""),  # invisible
        "ϖ": r"\varpi ",
        "´": "'",
    }
)
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−‐‑", "-"),
        **dict.fromkeys("⋅·∙•", r"\cdot "),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("≤≦⩽", r"\le "),
        **dict.fromkeys("≥≧⩾", r"\ge "),
        **dict.fromkeys("∅⌀", r"\emptyset "),
        "×": r"\times ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "∞": r"\infty ",
        "π": r"\pi ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∉": r"\notin ",
        "∖": r"\setminus ",
        "∠": r"\angle ",
        "′": "'",
        "。": ".",
    }
)
_DASH = re.compile(r"(?<!\d)–|–(?!\d)")  # except in a range of numbers, as in 1–2
_DEGREE = re.compile(r"\^\{[°∘]\}|\^?°|\^∘|(?<=\d)∘")
_ROOTS = {"√": r"\sqrt{", "∛": r"\sqrt[3]{", "∜": r"\sqrt[4]{"}
_SPACE_IN_ROOT = re.compile(r"(?<=[√∛∜])\s+")
_ROOT_OF_ONE = re.compile(r"(?<![√∛∜])([√∛∜]+)(\d+(?:\.\d+)?|[A-Za-z]|\\pi(?![A-Za-z]))")
_ROOT = re.compile("[√∛∜]")

# --- upright letters and operators ----------------------------------------------------------------

_FUNCTIONS = {
    name: name
    for name in (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot"),
        *("sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "exp", "ln", "log"),
    )
}
_TYPED = _FUNCTIONS | {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_ELSEWHERE = {  # names used in other countries
    **{"tg": "tan", "ctg": "cot", "cotg": "cot", "cosec": "csc", "arctg": "arctan"},
    **{"arcctg": "arccot", "sh": "sinh", "ch": "cosh", "th": "tanh", "lg": "log_{10}"},
}
_NAMED = _TYPED | _ELSEWHERE | {name: name for name in ("gcd", "lcm", "max", "min", "det")}
_ELSEWHERE_COMMAND = re.compile(rf"\\({'|'.join(_ELSEWHERE)})(?![A-Za-z])")
_FONT = re.compile(
    r"\\(math(?:rm|sf|tt|it|up|normal|bf)|text(?:rm|up|normal|sf|it|bf)?|mbox|operatorname\*?|boldsymbol|bm|symup|rm|bf)"
    r"(?:\s*\{([^{}]*)\}|\s+([A-Za-z])(?![A-Za-z]))"
)
_FONT_INSIDE = re.compile(r"\{\s*\\(rm|bf|it)\s([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_VARIABLE = re.compile(r"[a-z]")
_UPRIGHT = {name: command for name, command in _TYPED.items() if name != "sec"}
_BOLD = ("mathbf", "textbf", "boldsymbol", "bm", "bf")
_UNIT_LETTERS = "mgshld"  # from metre to day: 5\text{m} means 5 metres, but 5\text{x} means 5x

# --- calculators ----------------------------------------------------------------------------------

_GREEK = "pi|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega"
_INFINITY = "oo|inf|infinity|Infinity"
_TYPED_NAME = re.compile(
    r"\\(?:text[a-z]*|math[a-z]+|mbox|operatorname\*?|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:"
    rf"(?P<function>sqrt|cbrt|abs|{'|'.join(_TYPED)})(?=\s*[\d({{\\^_|]|\s+[A-Za-z](?![A-Za-z]))"
    rf"|(?<![A-Za-z]{{2}}\s)(?P<constant>{_GREEK}|{_INFINITY})(?![A-Za-z]|\s+[A-Za-z]{{2}})"
    r")"
)
_TYPED_ROOT_OF_ONE = re.compile(r"(?<![A-Za-z\\])sqrt\s*(\d+(?:\.\d+)?)")
_BRACKET = re.compile(r"(\\sqrt(?:\[[^\[\]{}]*\])?|\^|(?<![A-Za-z\\])abs)\s*\(|[()]")
_SIGNED_EXPONENT = re.compile(r"\^\s*([+-]\d+(?:\.\d+)?)")
_TOWER = re.compile(r"\^\s*(\d+|[A-Za-z])\s*\^\s*(\{[^{}]*\}|\d+|[A-Za-z])")
_IMAGINARY = re.compile(r"(?<=\d\*)I(?![A-Za-z_*])")  # SymPy's 3 + 4*I
_FRACTION_ALONE = re.compile(
    r"(\^|\\sqrt(?:\[[^\[\]{}]*\])?)\s*(\\[dtc]?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d))"
)

# --- notation that math-verify would ignore -------------------------------------------------------

_PRIMES = re.compile(r"(?<![A-Za-z])([A-Za-z])('+)(?![A-Za-z'])")
_DIVISOR = re.compile(r"\\?(gcd|lcm)\s*\(([A-Za-z\d ,+*-]*)\)")


def latex(text: str) -> str:
    """Converts an answer to LaTeX."""
    return _explicit(_from_calculator(_without_fonts(_from_unicode(text))))


def _from_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _SMALL_FRACTION.sub(_small_fraction, text)
    text = _VULGAR_FRACTION.sub(_vulgar_fraction, text)
    text = _RAISED_RUN.sub(lambda run: f"^{{{run.group().translate(_RAISED_LETTERS)}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{run.group().translate(_LOWERED_LETTERS)}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_KEPT)).translate(_SYMBOLS)
    text = _DEGREE.sub(r"^\\circ ", _DASH.sub("-", text))
    text = _ROOT_OF_ONE.sub(_root_of_one, _SPACE_IN_ROOT.sub("", text))
    return _ROOT.sub(lambda root: _ROOTS[root.group()].removesuffix("{"), text)


_RAISED_LETTERS, _LOWERED_LETTERS = str.maketrans(_RAISED), str.maketrans(_LOWERED)


def _small_fraction(found: re.Match[str]) -> str:
    """Converts a match such as ¹⁄₂."""
    top, bottom = found.groups()
    return rf"\frac{{{top.translate(_RAISED_LETTERS)}}}{{{bottom.translate(_LOWERED_LETTERS)}}}"


def _vulgar_fraction(found: re.Match[str]) -> str:
    """Converts a match such as ½."""
    top, bottom = unicodedata.normalize("NFKC", found.group()).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _root_of_one(found: re.Match[str]) -> str:
    """Converts root signs before a number, a letter or π: √13x becomes \\sqrt{13}x."""
    roots, content = found.groups()
    return "".join(_ROOTS[root] for root in roots) + content + "}" * len(roots)


def _without_fonts(text: str) -> str:
    """Removes upright and bold fonts from letters and names, unless such a letter or name is the whole answer: then it
    may be a word."""

    def plain(found: re.Match[str]) -> str:
        font, *contents = found.groups()
        content = next(filter(None, contents), "").strip(" ~")
        if content.isdecimal():
            return content
        if found.group() == text:
            return text
        # Without \operatorname, sec and min mean seconds and minutes.
        name = (_NAMED if "operator" in font else _UPRIGHT).get(content)
        if name is not None:
            return rf"\{name} "
        if _COMMAND.fullmatch(content):
            return content + " "
        unit = content in _UNIT_LETTERS and font not in _BOLD
        if _VARIABLE.fullmatch(content) and not unit:
            return content
        return found.group() if contents[1] is None else rf"\{font}{{{content}}}"

    text = _FONT.sub(plain, _FONT_INSIDE.sub(r"\\math\1{\2}", text))
    return _ELSEWHERE_COMMAND.sub(lambda found: rf"\{_ELSEWHERE[found.group(1)]} ", text)


def _from_calculator(text: str) -> str:
    text = _IMAGINARY.sub("i", text.replace("**", "^"))
    text = _TYPED_ROOT_OF_ONE.sub(r"\\sqrt{\1}", text)
    text = _with_braces(_TYPED_NAME.sub(_typed_name, text))
    text = _TOWER.sub(r"^{\1^\2}", _SIGNED_EXPONENT.sub(r"^{\1}", text))
    return _FRACTION_ALONE.sub(r"\1{\2}", text)


def _typed_name(found: re.Match[str]) -> str:
    function, constant = found.group("function"), found.group("constant")
    if constant:
        return r"\infty " if constant in _INFINITY.split("|") else rf"\{constant} "
    if function == "cbrt":
        return r"\sqrt[3]"
    if function in (None, "abs"):  # `_with_braces` converts abs(x)
        return found.group()
    return r"\sqrt" if function == "sqrt" else rf"\{_TYPED[function]} "


def _with_braces(text: str) -> str:
    """Converts `\\sqrt(x)` to `\\sqrt{x}`, `2^(x)` to `2^{x}`, and `abs(x)` to `|x|`. Returns the text unchanged if one
    of these brackets does not close."""
    parts, closing, done = [], [], 0
    for bracket in _BRACKET.finditer(text):
        parts.append(text[done : bracket.start()])
        done = bracket.end()
        before = bracket.group(1)
        if before == "abs":
            parts.append("|")
            closing.append("|")
        elif before:
            parts.append(before + "{")
            closing.append("}")
        elif bracket.group() == "(":
            parts.append("(")
            closing.append(")")
        else:
            parts.append(closing.pop() if closing else ")")
    return text if set(closing) - {")"} else "".join(parts) + text[done:]


def _explicit(text: str) -> str:
    """Writes out what math-verify misreads: f' becomes f^{\\prime}, so that it differs from f, and the gcd or lcm of
    variables becomes a name of its own, because math-verify evaluates it to 1."""
    text = _PRIMES.sub(lambda f: f.group(1) + "^{" + r"\prime " * len(f.group(2)) + "}", text)
    return _DIVISOR.sub(_divisor, text)


def _divisor(found: re.Match[str]) -> str:
    name, arguments = found.groups()
    if not any(map(str.isalpha, arguments)):
        return found.group()
    return rf"\text{{{name};{';'.join(sorted(arguments.replace(' ', '').split(',')))}}}"
