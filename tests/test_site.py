"""The site that `make docs` builds: the contents of its pages, its links, and its rendering in a browser."""

import html
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import boxwright
import chromium

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402

WHOLE = {"parameters", "deviations", "results", "benchmarks", "changelog"}  # tables and records, not divided
MOST_WORDS = 1500
PHONE = {"width": 390, "height": 844}
MAIN = ("index.html", "tutorials/first_detector.html", "data.html", "reference/train.html", "reference/keys_train.html",
        "reference/api_prediction.html", "design.html", "results.html", "parameters.html")  # fmt: skip


# --- what the reference is made of


def test_every_option_has_a_description() -> None:
    found = dict(reference.commands())
    assert {("train",), ("data", "check"), ("doctor",)} <= set(found)
    for path, command in found.items():
        assert command.help, path
        for typed, meaning in reference.options(path, command):
            assert re.sub(r"\[.*\]", "", meaning).strip(), f"{path} {typed}"


def test_every_key_has_a_description() -> None:
    rows = [row for _, parts in reference.roots().values() for prefix, config in parts
            for row in reference.keys_of(config, prefix)]  # fmt: skip
    assert {"train.schedule.lr", "model.roi.aligned", "data.canvas.size", "predict.nms.iou"} <= {row[0] for row in rows}
    assert [key for key, _, _, meaning in rows if not meaning] == []


def test_reference_keys_cover_recipes() -> None:
    """With a model of each kind, compared with what `boxwright show` prints."""
    listed: dict[str, set[str]] = {}
    for page, (_, parts) in reference.roots().items():
        for prefix, config in parts:
            listed.setdefault(page, set()).update(row[0] for row in reference.keys_of(config, prefix))
    shared = {key for page, keys in listed.items() if not page.startswith("model_") for key in keys}
    for name in ("yolov3_coco_416", "yolov4_coco_608", "faster_rcnn_r50_dcn_coco", "tiny_darknet_imagenet_224"):
        chosen = boxwright.Recipe.load(name)
        keys = shared | listed[f"model_{chosen.model.name}"]
        for key in flat(chosen.tree()):
            assert any(key == known or key.startswith(f"{known}.") for known in keys), key


def test_reference_keys_link_published_keys() -> None:
    """Rows of docs/parameters.md, read here by eye."""
    pages = {name: reference.keys_page(*about) for name, about in reference.roots().items()}
    row = next(line for line in pages["train"].splitlines() if line.startswith("| `train.schedule.lr` |"))
    assert "[`lr`](../parameters.md#yolov3_darknet53)" in row
    row = next(
        line for line in pages["model_yolov4"].splitlines() if line.startswith("| `model.loss.label_smoothing` |")
    )
    assert row.endswith("[`label_smooth_factor`](../parameters.md#yolov4) |")
    every = "".join(pages.values())
    assert [key for key in reference.published() if f"| `{key}` |" not in every] == []


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [key for name, value in tree.items() for key in (
        flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"])]  # fmt: skip


def public_functions() -> Iterator[tuple[str, Any]]:
    """Functions, and methods and properties of classes, of `boxwright.__all__`."""
    for name in boxwright.__all__:
        value = getattr(boxwright, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) or isinstance(value, ModuleType):
            for inner, member in vars(value).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if inner.startswith("_") or not inspect.isfunction(function):
                    continue
                if inspect.isclass(value) or function.__module__ == value.__name__:
                    yield f"{name}.{inner}", function


def test_every_public_function_and_its_arguments_have_a_description() -> None:
    found = dict(public_functions())
    assert {"load", "train", "Predictor.forward", "Detections.to", "interop.to_coco"} <= set(found)
    for name, function in found.items():
        text = inspect.getdoc(function)
        assert text, name
        for argument in inspect.signature(function).parameters:
            if argument not in ("self", "cls"):
                assert re.search(rf"\b{argument}(, \w+)*:|`{argument}`", text), f"{name}: {argument}"
    for name in set(boxwright.__all__) - {"__version__"}:
        assert getattr(boxwright, name).__doc__, name


def test_every_public_name_is_on_one_page() -> None:
    names = [name for _, names in reference.API.values() for name in names]
    assert sorted([*names, "__version__"]) == sorted(boxwright.__all__)


def test_type_descriptions() -> None:
    from boxwright.config import Fraction
    from boxwright.recipe.data import Size

    assert reference.kind(Fraction) == "number ≥ 0 ≤ 1"
    assert reference.kind(Size | None) == "[whole number ≥ 1 ≤ 16,384, whole number ≥ 1 ≤ 16,384] or null"
    assert reference.kind(tuple[str, ...]) == "list of text"


def test_field_comments_are_descriptions() -> None:
    found = reference.descriptions(reference.Recipe.model_fields["data"].annotation)
    assert found["kind"].startswith("a layout: the name of a module")
    assert found["val_fraction"].startswith("this fraction of `train` becomes the split `val`")


# --- the built site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly, as `make docs` does."""
    for module in ("mkdocs", "mkdocstrings_handlers.python", "material"):
        pytest.importorskip(module, reason="needs the extra docs")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", out],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def articles(site: Path) -> dict[str, str]:
    """Page -> its text as HTML, without navigation."""
    found = {}
    for page in sorted(site.rglob("*.html")):
        if (
            match := re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.S)
        ) and page.stem != "404":
            found[page.relative_to(site).as_posix()] = match[0]
    return found


@pytest.mark.slow
def test_pages_are_short_and_have_one_heading(site: Path) -> None:
    pages = articles(site)
    assert len(pages) > 80
    assert set(MAIN) <= set(pages)
    for name, text in pages.items():
        assert len(re.findall(r"<h1[ >]", text)) == 1, name
        words = len(re.findall(r"\S*\w\S*", html.unescape(re.sub(r"<[^>]+>", " ", text))))
        assert words <= MOST_WORDS or Path(name).stem in WHOLE, f"{name}: {words} words"


@pytest.mark.slow
def test_links_exist_and_no_external_resources_are_loaded(site: Path) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    names = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    checked = 0
    for page, text in texts.items():
        assert re.findall(r'<(?:script|link|img)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text) == [], page
        if page.name == "404.html":
            continue
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            target, _, anchor = html.unescape(link).partition("#")
            if re.match(r"https?:|mailto:|data:", target):
                continue
            file = (page.parent / target).resolve() if target else page
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{page.relative_to(site)}: {link}"
            if anchor and not anchor.startswith("__"):
                assert anchor in names[file], f"{page.relative_to(site)}: {link}"
            checked += 1
    assert checked > 1000
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", styles) == []


@pytest.mark.slow
def test_reference_lists_all_options_and_public_names(site: Path) -> None:
    pages = articles(site)
    text = html.unescape(
        re.sub(r"<[^>]+>", "", " ".join(value for name, value in pages.items() if "reference/" in name))
    )
    for path, command in reference.commands():
        page = html.unescape(re.sub(r"<[^>]+>", "", pages[f"reference/{'_'.join(path)}.html"]))
        for parameter in command.params:
            assert all(option in page for option in parameter.opts if option.startswith("-")), (path, parameter.name)
    for name in set(boxwright.__all__) - {"__version__"}:
        assert f"bw.{name}" in text
    for name, function in public_functions():
        assert function.__name__ in text, name


# --- in a browser, from the folder, without a server


browser = pytest.fixture(scope="module")(chromium.browser)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_with_sufficient_contrast(browser: Any, site: Path, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in MAIN:
        page.goto((site / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
        assert page.locator("article h1").count() == 1
        assert page.evaluate(CONTRAST) == [], name
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about", "blob"}
    context.close()


# Texts of the article whose contrast with their background is below WCAG's 4.5 (AA)
CONTRAST = """() => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const over = (top, below) => {
        const alpha = top[3] ?? 1;
        return [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha));
    };
    const behind = (element) => {
        const layers = [];
        for (let one = element; one; one = one.parentElement) layers.push(numbers(getComputedStyle(one).backgroundColor));
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const light = (color) => {
        const [r, g, b] = color.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const low = [];
    for (const element of document.querySelectorAll("article h1, article h2, article p, article li, article td, article th, article a, article code, article pre span")) {
        if (element.closest(".headerlink, .md-source-file") || !element.checkVisibility() || !element.textContent.trim()) continue;
        const ground = behind(element);
        const [a, b] = [light(ground), light(over(numbers(getComputedStyle(element).color), ground))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${element.tagName} ${element.textContent.slice(0, 30)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
    }
    return [...new Set(low)].slice(0, 10);
}"""  # noqa: E501


@pytest.mark.slow
def test_search_works_without_a_server(browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").fill("warmup_epochs")
    page.locator(".md-search-result__link").first.wait_for(timeout=20_000)
    links = page.locator(".md-search-result__link").evaluate_all("links => links.map((link) => link.href)")
    assert any("reference/keys_train.html" in link for link in links), links
    page.close()
