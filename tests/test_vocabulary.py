"""Documentation, help, docstrings, comments and messages use the terms of the glossary (CONTRIBUTING.md)."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Glossary\n")[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "docs").rglob("*.md")]
FILES = sorted(
    path
    for path in (*PAGES, *(ROOT / "docs").glob("*.py"), *(ROOT / "examples").iterdir(), *(ROOT / "src").rglob("*"))
    if path.suffix in {".md", ".py", ".ipynb", ".yaml", ".html", ".js"}
)
DEVELOPERS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").iterdir()])


def terms() -> dict[str, str]:
    """Word in bold in the last column -> the term to use."""
    rows = re.findall(r"^\| (.*?) \| .* \| (.*?) \|$", GLOSSARY, re.M)
    return {word: term for term, words in rows for word in re.findall(r"\*\*(.+?)\*\*", words)}


def page_text(text: str) -> str:
    """A page without code, addresses and tags."""
    text = re.sub(r"^ *```.*?^ *```", "", text.partition("\n## Glossary\n")[0], flags=re.S | re.M)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>|https?://\S+", " ", text)


def python_text(text: str) -> str:
    """Comments, and strings of several words; without names in `` ` ``, values and arguments of docstrings."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = "\n".join(token.string for token in tokens if token.type in kinds and " " in token.string)
    return re.sub(r"`[^`]*`|\{[^}]*\}|^ *\w+:(?= )", " ", found, flags=re.M)


def documentation(text: str) -> str:
    """Comments and docstrings of Python code, without other strings."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, owners)]
    return re.sub(r"`[^`]*`|^ *\w+:(?= )", " ", "\n".join(comments + docstrings), flags=re.M)


def prose(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return python_text(text)
    if path.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        return "\n".join(page_text(cell) if kind == "markdown" else python_text(cell) for kind, cell in cells)
    if path.suffix == ".yaml":
        return "\n".join(re.findall(r"(?:#|^summary:).*", text, re.M))
    if path.suffix == ".js":
        return "\n".join(re.findall(r'//.*|"[^"\n]* [^"\n]*"|`[^`]* [^`]*`', text))
    return page_text(text)


def forms(word: str) -> str:
    return f"{word[:-1]}(?:e|es|ed|ing)" if word.endswith("e") else f"{word}(?:s|es|ed|ing)?"


def found(text: str) -> list[str]:
    """Words that the glossary excludes, in any of their forms, with what is around them."""
    words = rf"(?<![\w.-])(?:{'|'.join(forms(word) for word in terms())})(?![\w-])"
    return [text[max(place.start() - 40, 0) : place.end() + 20] for place in re.finditer(words, text, re.I)]


def test_glossary_is_parsed() -> None:
    assert terms()["picture"] == "image"
    assert "source" not in terms()


@pytest.mark.parametrize("line", ["# two Pictures", "refusing it", "hull", "a mean and deviation of"])
def test_inflected_forms_are_found(line: str) -> None:
    assert found(line) == [line]


def test_substrings_are_not_found() -> None:
    assert found("pictures_of, hull-less, refusenik, dictionary, the mean, and deviation") == []


def test_code_and_links_are_skipped() -> None:
    assert "picture" not in page_text("[a](picture.md) `picture` <picture>\n```\npicture\n```\n")
    assert "picture" not in python_text('f"a {picture}" # a `picture`\npicture = "picture"\n')
    assert "picture" in python_text('f"no picture in {file}"')


def test_documentation_is_comments_and_docstrings_only() -> None:
    code = 'def f():\n    """A picture."""\n    return "hull"  # refused\n'
    assert documentation(code) == "# refused\n\nA picture."


@pytest.mark.slow
def test_prose_uses_the_terms_of_the_glossary() -> None:
    assert [f"{path.relative_to(ROOT)}: {line!r}" for path in FILES for line in found(prose(path))] == []


@pytest.mark.slow
def test_tests_and_benchmarks_use_the_terms_of_the_glossary() -> None:
    texts = [(path, path.read_text(encoding="utf-8")) for path in DEVELOPERS if path.suffix in {".py", ".md"}]
    texts = [(path, page_text(text) if path.suffix == ".md" else documentation(text)) for path, text in texts]
    assert [f"{path.relative_to(ROOT)}: {line!r}" for path, text in texts for line in found(text)] == []


NO_NAMES = {"one", "some", "many", "most", "few", "told", "said", "held", "meant", "whole"}


def test_pronouns_and_adjectives_are_not_used_as_names() -> None:
    bound = [
        (path, node.lineno, node.arg if isinstance(node, ast.arg) else node.id)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    assert len(bound) > 10_000
    assert [f"{path.relative_to(ROOT)}:{line} {name}" for path, line, name in bound if name in NO_NAMES] == []
