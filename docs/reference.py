"""Pages of the site that are made of the code: the command line, the keys of recipes, the Python API.

A hook of MkDocs (`mkdocs.yml`), which `make docs` runs. What every option, key and public name says of itself is its
description; `tests/test_site.py` checks that none is missing.
"""

import ast
import inspect
import json
import re
import runpy
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
import typer

import boxwright
from boxwright import models
from boxwright.cli.commands import app
from boxwright.recipe import Recipe

ROOT = Path(__file__).parents[1]
COPIED = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
          "benchmarks/results.md": "benchmarks.md", "examples/README.md": "examples.md"}  # fmt: skip
ABSENT = re.compile(
    r"\[([^\]]*)\]\((?:\.\./)*(?:[A-Z_]+\.md|LICENSE|CITATION\.cff|Dockerfile|[\w-]+\.(?:txt|py|ipynb))[^)]*\)"
)

PUBLISHED = "The published metrics are those of the named sources, for their own training; none was measured here."

# Page of the Python API -> title and public names
API = {
    "prediction": ("Prediction", ["load", "Predictor", "RuntimeOptions", "predict_scene", "Tiling", "open_scene"]),
    "results": ("Results of a prediction", ["Prediction", "ClassPrediction", "Detections", "Detection", "Classes"]),
    "training": ("Training, evaluation, export", ["train", "evaluate", "calibrate", "export_model"]),
    "recipes": ("Recipes and networks", ["Recipe", "list_recipes", "create_model", "Batch"]),
    "data": ("Data and paths", ["open_dataset", "local_path", "local_output", "InputError"]),
    "interop": ("Other libraries", ["interop"]),
}  # fmt: skip


# --- command line


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, such as ("data", "check")."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield path, command
    else:
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


def options(path: tuple[str, ...], command: Any) -> list[tuple[str, str]]:
    """(how it is typed, what it means, with default and limits) of each argument and option, as in `--help`."""
    context = command.context_class(command, info_name=" ".join(path))
    records = [(parameter.param_type_name, *parameter.get_help_record(context)) for parameter in command.params]
    return [(typed.partition(" <")[0] if kind == "argument" else typed, meaning) for kind, typed, meaning in records]


def command_page(path: tuple[str, ...], command: Any) -> str:
    rows = [f"| {cell(f'`{typed}`')} | {cell(meaning)} |" for typed, meaning in options(path, command)]
    arguments = [typed for typed, _ in options(path, command) if not typed.startswith("-")]
    text = inspect.cleandoc(command.help or "").replace("\b\n", "").replace("\f", "")
    usage = f"```text\nboxwright {' '.join([*path, *arguments])} [OPTIONS]\n```"
    head = f"# boxwright {' '.join(path)}\n\n{text}\n\n{usage}\n\n"
    return head + "| argument or option | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def cell(text: str) -> str:
    """Text for a cell of a table, in which no bracket is read as a link or as HTML."""
    parts = re.split(r"(`[^`]*`)", " ".join((text or "").split()).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else re.sub(r"([<>\[\]*_])", r"\\\1", part) for part in parts)


# --- keys of recipes


def descriptions(config: type) -> dict[str, str]:
    """What the comments above and behind the fields of a class say, and its docstring under Attributes."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if base.__module__.startswith("boxwright"):
            found |= _attributes(base.__doc__ or "") | _comments(base)
    return {name: found.get(name, "") for name in config.model_fields}  # type: ignore[attr-defined]


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    pairs = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in pairs}


def _comments(config: type) -> dict[str, str]:
    source = inspect.getsource(config)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            first = field.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            texts = [
                comments[line]
                for line in range(first, (field.end_lineno or first) + 1)
                if comments.get(line, "fmt")[:3] != "fmt"
            ]
            if texts:
                found[field.target.id] = " ".join(texts)
    return found


def kind(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type as a reader of YAML thinks of it: "number, 0 to 1", "list of whole numbers", "one of a, b"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(inner[0], (*inner[1:], *metadata))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(kind(part, metadata) for part in inner))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of ({kind(inner[0])})" if get_origin(inner[0]) is tuple else f"list of {kind(inner[0])}"
        return f"[{', '.join(kind(part) for part in inner)}]"
    if annotation is type(None):
        return "null"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, "section") + _bounds(metadata if annotation in (int, float) else ())


def _bounds(metadata: tuple[Any, ...]) -> str:
    limits: dict[str, Any] = {}
    for entry in metadata:
        for part in getattr(entry, "metadata", [entry]):
            limits |= {name: getattr(part, name) for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(f" {signs[name]} {limits[name]:,}" for name in signs if name in limits)


def sections(config: type[pydantic.BaseModel], prefix: str) -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    """The section with this prefix, and those within it."""
    yield prefix, config
    for name, field in config.model_fields.items():
        parts = [field.annotation, *get_args(field.annotation)]
        for part in parts:
            if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
                yield from sections(part, f"{prefix}.{name}")


def keys_of(config: type[pydantic.BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, description) of each field of one section that is no section itself."""
    says = descriptions(config)
    inner = {place.rpartition(".")[2] for place, _ in sections(config, prefix) if place != prefix}
    for name, field in config.model_fields.items():
        if name in inner:
            continue
        default = "required" if field.is_required() else f"`{_yaml(field.get_default(call_default_factory=True))}`"
        yield f"{prefix}.{name}".lstrip("."), kind(field.annotation, tuple(field.metadata)), default, says[name]


def _yaml(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 120 else "a list of names or numbers; see boxwright show"


def roots() -> dict[str, tuple[str, list[tuple[str, type[pydantic.BaseModel]]]]]:
    """Page of keys -> title, and its sections with their prefixes."""
    fields = Recipe.model_fields
    top = ("data", "train", "evaluate", "predict", "expect")
    pages = {"recipe": ("a recipe", [("", Recipe)])}
    pages |= {name: (name, list(sections(fields[name].annotation, name))) for name in top}  # type: ignore[arg-type]
    pages["evaluate"] = ("evaluate, predict, expect", [pair for name in top[2:] for pair in pages[name][1]])
    del pages["predict"], pages["expect"]
    train = pages["train"][1]
    augment = [pair for pair in train if "augment" in pair[0]]
    pages["train"], pages["augment"] = (
        ("train", [pair for pair in train if pair not in augment]),
        ("augmentation", augment),
    )
    for name in models.names():
        pages[f"model_{name}"] = (f"model: {name}", list(sections(models.module(name).Config, "model")))
    return pages


def published(of: str = "") -> dict[str, dict[str, str]]:
    """Key -> its names in published configurations -> links to docs/parameters.md. of: only those of this model."""
    found: dict[str, dict[str, str]] = {}
    text = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    for title, section in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.S | re.M):
        models_of = re.findall(r"model\s`(\w+)`", section.partition("\n| ")[0])
        if not models_of or of not in ("", *models_of):
            continue
        for names, keys in re.findall(r"^\| ([^|]*) \| [^|]* \| ([^|]*) \|", section, re.M):
            for key in re.findall(r"`([a-z]+(?:\.\w+)+)`", keys):
                found.setdefault(key, {}).setdefault(names, f"[{names}](../parameters.md#{title})")
    return found


def keys_page(title: str, parts: list[tuple[str, type[pydantic.BaseModel]]]) -> str:
    text = f"# Recipe keys: {title}\n\nDefaults are those of a recipe that leaves the key out; `boxwright show RECIPE` "
    text += "prints the values of a recipe, and `--set KEY=VALUE` changes one.\n"
    text += "*Published as* leads to the published configurations, with their names and values of the key.\n"
    origins = published(title.partition("model: ")[2])
    for prefix, config in parts:
        says = (config.__doc__ or "").partition("\n\nAttributes:")[0] if config.__doc__ else ""
        says = says if any(config.__doc__ != base.__doc__ for base in config.__mro__[1:2]) else ""
        rows = [f"| `{key}` | {cell(what)} | {default.replace('|', chr(92) + '|')} | {cell(meaning)} | "
                + f"{', '.join(origins.get(key, {}).values())} |"
                for key, what, default, meaning in keys_of(config, prefix)]  # fmt: skip
        text += f"\n## {prefix or 'recipe'}\n\n{inspect.cleandoc(says)}\n\n"
        head = "| key | type | default | meaning | published as |\n| --- | --- | --- | --- | --- |\n"
        text += head + "\n".join(rows) + "\n" if rows else ""
    return text


# --- Python API


def where(name: str) -> str:
    """The dotted path of a public name."""
    return "boxwright.interop" if name == "interop" else f"boxwright.{boxwright._MODULES[name]}.{name}"


def api_page(title: str, names: list[str]) -> str:
    text = f"# {title}\n\n`import boxwright as bw`: every name on this page is one of `bw`.\n"
    for name in names:
        text += f"\n## bw.{name}\n\n::: {where(name)}\n"
    return text


# --- pages and navigation


def pages() -> dict[str, str]:
    """Path on the site -> text."""
    made = {f"reference/{'_'.join(path)}.md": command_page(path, command) for path, command in commands()}
    made |= {f"reference/keys_{name}.md": keys_page(*about) for name, about in roots().items()}
    made |= {f"reference/api_{name}.md": api_page(*about) for name, about in API.items()}
    for source, target in COPIED.items():
        made[target] = outside((ROOT / source).read_text(encoding="utf-8"))
    contributing, _, glossary = made["contributing.md"].partition("\n## Glossary\n")
    made["contributing.md"] = contributing.replace("(#glossary)", "(glossary.md)")
    made["glossary.md"] = f"# Glossary\n{glossary}"
    table = runpy.run_path(str(ROOT / "docs" / "recipes_table.py"))["table"]()
    made["recipes.md"] = f"# Recipes\n\n{PUBLISHED}\n\n{table}"
    return made


def outside(text: str) -> str:
    """Links of a page to files beside `docs`: to their copies on the site, or only their names."""
    text = re.sub(r"\]\((?:\.\./)*CONTRIBUTING\.md#glossary\)", "](glossary.md)", text)
    for source, target in COPIED.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(source)}", f"]({target}", text)
    return ABSENT.sub(r"\1", re.sub(r"\]\((?:\.\./)*docs/", "](", text))


def on_config(config: Any) -> Any:
    """Lists the generated pages under Reference."""
    (reference,) = [part["Reference"] for part in config["nav"] if "Reference" in part]
    made = pages()
    for title, start in (("Commands", "(?!keys_|api_)"), ("Recipe keys", "keys_"), ("Python API", "api_")):
        chosen = [path for path in made if re.match(rf"reference/{start}", path)]
        names = [made[path].partition("\n")[0].removeprefix("# ").removeprefix("Recipe keys: ") for path in chosen]
        reference.append({title: [{name: path} for name, path in zip(names, chosen, strict=True)]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files beside `docs`."""
    return outside(markdown)
