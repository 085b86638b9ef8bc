"""Answers that are made, or happen, to harm a verifier: by name, what stands in the box or tag."""


def _tree(depth: int) -> str:
    return "1" if depth == 0 else rf"\frac{{{_tree(depth - 1)}}}{{{_tree(depth - 1)}}}"


def _unions(count: int, end: str) -> str:
    return r" \cup ".join(f"({end}_{i},{end}_{{{i}+1}})" for i in range(count))


# Wrong for every verifier, at once: what they are is seen from the text.
WRONG = {
    "parentheses 10,000 deep": "(" * 10_000 + "1" + ")" * 10_000,
    "braces 10,000 deep": "{" * 10_000 + "1" + "}" * 10_000,
    "brackets 40 deep": "(" * 40 + "1" + ")" * 40,
    "left parentheses": r"\left(" * 300,
    "roots 200 deep": r"\sqrt{" * 200 + "2" + "}" * 200,
    "fractions 200 deep": r"\frac{1}{1+" * 200 + "1" + "}" * 200,
    "a tree of 1,024 fractions": _tree(10),
    "fraction signs alone": r"\frac" * 100_000,
    "sines 20 deep": r"\sin(" * 20 + "x" + ")" * 20,
    "10 MB of nines": "9" * 10_000_000,
    "10 MB of letters": "a" * 10_000_000,
    "10 MB of backslashes": "\\" * 10_000_000,
    "10 MB of carets": "^" * 10_000_000,
    "10 MB of spaces": " " * 10_000_000,
    "10 MB of sums": "1+" * 5_000_000 + "1",
    "a number of 5,000 digits": "7" * 5_000,
    "a decimal of 5,000 digits": "0." + "3" * 5_000,
    "powers in Python": "9**9**9",
    "powers that hung the published grader": "44**19**35",
    "a tower of powers": "9^{9^{9^9}}",
    "a power of a power": "44^{19^{35}}",
    "a large power": "2^{100000000}",
    "a tower of variables": "x^{" * 30 + "x" + "}" * 30,
    "a large decimal power": "1.5^{1000000000}",
    "a large exponent": "1e999999999",
    "a large scientific exponent": r"1.5 \times 10^{999999999}",
    "a double factorial": "10000!!",
    "a factorial": "1000000!",
    "a factorial of a power": "(10^9)!",
    "factorials of factorials": "((9!)!)!",
    "a binomial": r"\binom{10^9}{5 \cdot 10^8}",
    "a binomial of literals": r"\binom{1000000000}{500000000}",
    "a choice of literals": r"{1000000000 \choose 500000000}",
    "a matrix power": r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^{100000000}",
    "a matrix of towers": r"\begin{pmatrix} 9^{9^{9}} & 1 \\ 1 & 9^{9^{9}} \end{pmatrix}",
    "a set of towers": r"\{9^{9^{9}}, 8^{8^{8^8}}\}",
    "an equation of towers": r"y = 9^{9^{9}}",
    "a remainder of a tower": r"7^{10^{20}} \mod 13",
    "a long sum": r"\sum_{n=1}^{10^9} \frac{1}{n}",
    "a hard integral": r"\int \sqrt{\sin(x)\cos(x^3)} \, dx",
    "a long product": r"\prod_{n=1}^{100000} n",
    "a limit": r"\lim_{x\to 0} \frac{\sin(\sin(\sin x))-x}{x^{17}}",
    "many unions": _unions(25, "x"),
    "many plus or minus": r"1\pm" * 40 + "1",
    "commas": "," * 300,
    "regex bait": "a" * 200 + "!" + " and " * 40,
    "more regex bait": r"\text{" * 50 + "a" * 100,
    "null bytes": "\x00" * 1_000,
    "a null byte": "5\x00",
    "a lone surrogate": "\ud800",
    "digits of another script": "٤٢" * 10,
    "right to left": "\u202e5\u202c \u2066 1",
    "superscripts": "9⁹⁹⁹",
    "radical signs": "√" * 1_000 + "2",
    "vulgar fractions": "½" * 300,
    "a power of an imaginary number": r"(2\mathrm{i})^{1000000000}",
    "an imaginary tower": r"9^{9^{9}} i + \mathrm{i}^{9^{9^{9}}}",
    "a tower of calculators": "2^(2^(2^(2^(2^(2^2)))))",
    "a tower in Python beside a root": "sqrt(x)*9**9**9",
    "calculator roots 300 deep": "sqrt(" * 300 + "2" + ")" * 300,
    "a root of a large power": r"\sqrt{(x+y+z+w+1)^{100000}}",
    "roots of powers of sums": r"\sqrt{(x+y)^{99}} \sqrt{(x-y)^{99}} \sqrt{(x+z)^{99}}",
    "roots of roots of variables": r"\sqrt{x\sqrt{y\sqrt{z\sqrt{x\sqrt{y\sqrt{z}}}}}}",
    "primes": "f" + "'" * 1_000,
    "code that writes a file": "__import__('pathlib').Path('{file}').write_text('harm')",
    "code as text": r"\text{__import__('pathlib').Path('{file}').write_text('harm')}",
    "code in an operator": r"\operatorname{exec}(open('{file}', 'w'))",
    "code that exits": "exit(1)",
    "code that exits in SymPy": "sympify('__import__(\"os\")._exit(1)')",
    "code that prints": "print('harm')",
    "TeX that writes a file": r"\immediate\write18{touch {file}}",
    "TeX that reads a file": r"\input{/etc/passwd}",
    "TeX that defines itself": r"\def\x{\x\x}\x",
    "a lambda": "lambda: 0",
    "dunder": "().__class__.__bases__[0].__subclasses__()",
    "a format string": "%s%n{0.__class__}" * 20,
    "control characters": "\r\n\t\x07\x1b[2J",
}

# The text looks like a possible answer, and SymPy does not come to an end: failed, not wrong.
ENDLESS = {
    "roots of an equation": "(x+y+z+w+1)^{200} = x^3 + y",
}

# Whole responses, that have no answer or a hidden one.
UNANSWERED = {
    "nothing": "",
    "10 MB of boxes": r"\boxed{" * 1_400_000,
    "a box that is not closed": r"\boxed{" + "1" * 1_000_000,
    "a closed box, then one that is not": r"\boxed{5} no, \boxed{" + "{" * 10_000,
    "10 MB of answer tags": "<answer>" * 1_250_000,
    "a tag that is not closed": "<answer>5",
    "tags in the wrong order": "</answer>5<answer>",
    "10 MB of the word answer": "the answer is " * 700_000,
    "10 MB of thoughts": "<think>" * 1_400_000,
    "boxes without braces": r"\boxed" * 1_600_000,
}
