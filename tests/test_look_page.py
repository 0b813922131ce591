"""The page of `boxwright look`, in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chromium
from look_set import HTML, LARGE, MANY, RUN_A, RUN_B, line, log_lines, looking, write_audit, write_run, write_set
from look_tab import SECONDS, Site, Tab

for module in ("fastapi", "uvicorn"):
    pytest.importorskip(module, reason="needs the extra web")

pytestmark = pytest.mark.slow


browser = pytest.fixture(scope="module")(chromium.browser)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("look")
    data = folder / "set"
    write_set(data)
    write_run(folder / "runs" / "a", data, RUN_A, 0.4)
    write_run(folder / "runs" / "b", data, RUN_B, 0.5)
    write_run(folder / "runs" / "new", data, [], 0.3)
    write_run(folder / "runs" / "other", data, ["1,{path},object,dog,1,1,9,9,,missed,0,"], 0.2, ("dog",))
    write_audit(folder / "audit.json")
    with looking(str(data), str(folder / "runs"), "--audit", str(folder / "audit.json")) as address:
        (data / "images" / "train" / "gone.png").unlink()
        yield Site(folder, address)


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.on("request", lambda request: site.hosts.add(request.url.partition("://")[2].partition("/")[0]))
    opened = Tab(context, site.address)
    yield opened
    context.close()
    assert opened.errors == []


def test_grid_filters_and_keyboard(tab: Tab) -> None:
    tab.open()
    tab.see("4 images match")  # of the split that the run was evaluated on
    tab.page.get_by_label("Split", exact=True).select_option("")
    tab.see("6 images")
    tab.page.get_by_label("Class", exact=True).select_option(HTML)
    tab.see("1 image match")
    tab.page.get_by_label("Class", exact=True).select_option("")
    tab.page.get_by_label("Object size").select_option("small")
    tab.see("2 images match")  # 20 x 10 and 30 x 26 px; not 64 x 48
    tab.page.keyboard.press("Tab")  # out of the select
    tab.page.get_by_role("button", name="Reset filters").click()
    tab.see("6 images")
    tab.page.get_by_label("Status (run A)").select_option("background")
    tab.see("1 image match")
    tab.see("1 missed", ".cell")
    tab.page.reload()
    tab.see("1 image match")
    tab.open(split="train")
    tab.wait("document.activeElement.className === 'thumb'")
    tab.page.keyboard.press("ArrowRight")
    assert "gone.png" in tab.page.evaluate("document.activeElement.ariaLabel")
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("Enter")
    tab.see("first", ".toolbar .name")
    tab.see("1 / 4", ".position")
    tab.page.keyboard.press("PageDown")
    tab.see("2 / 4", ".position")
    tab.page.keyboard.press("Escape")
    tab.see("4 images match")


def test_grid_of_many_images_has_few_elements(tab: Tab) -> None:
    def answer(route: Any) -> None:
        first = int(re.search(r"offset=(\d+)", route.request.url)[1])
        names = [(number, f"{number}.png") for number in range(first, min(118_287, first + 100))]
        rows = [{"id": number % 6, "name": name, "height": 480, "width": 640, "objects": 1} for number, name in names]
        route.fulfill(json={"total": 118_287, "images": rows})

    tab.page.route("**/api/images?*", answer)
    tab.open(split="")
    tab.see("118,287 images")
    tab.wait("document.activeElement.title === '0.png'")
    tab.page.keyboard.press("End")
    tab.wait("document.activeElement.title === '118286.png'")
    assert tab.page.locator(".cell").count() < 60


def test_class_names_are_not_parsed_as_html(tab: Tab) -> None:
    tab.open_image("first")
    tab.see(HTML, "[role=option]")
    assert tab.page.locator("option", has_text=HTML).count() > 0
    assert tab.page.locator("img[src=x]").count() == 0
    assert tab.page.evaluate("window.hit") is None


def test_two_runs_side_by_side_and_as_overlay(tab: Tab) -> None:
    tab.open_image("first", a="a", b="b")
    assert tab.page.locator("figcaption").all_inner_texts() == ["Ground truth", "a", "b"]
    groups = tab.page.locator(".group").all_inner_texts()
    assert groups == ["Ground truth (2)", "a (2)", "b (2)"]  # the detection with a score of 0.1 is not shown
    tab.page.get_by_label("Color by").select_option("status")
    tab.wait("document.querySelectorAll('.legend li').length > 3")
    assert tab.page.locator("figcaption").first.inner_text() == "Ground truth (status against a)"
    for _ in range(20 * SECONDS):
        green, red = tab.color(102, 180, 1), tab.color(10, 35, 1)  # on the left sides of a correct and of a wrong box
        if green[1] > green[0] + 60 and red[0] > red[1] + 60:
            break
        tab.page.wait_for_timeout(50)
    else:
        raise AssertionError(f"found {green} and {red}, needed green and red")
    assert np.ptp(tab.color(200, 180, 1)) < 3  # the gray of the image, within a box
    assert np.ptp(tab.color(10, 35, 2)) < 3  # the other run has no box there
    tab.page.keyboard.press("m")
    tab.wait("document.querySelectorAll('figure').length === 1")
    tab.page.keyboard.press("a")
    tab.wait("document.querySelectorAll('.group').length === 2")
    assert "layers=tbf" in tab.page.url
    tab.page.keyboard.press("e")  # take a detection over
    tab.page.locator("[role=option]").nth(2).click()
    tab.page.keyboard.press("k")
    tab.see("Ground truth (3)")
    tab.page.keyboard.press("Control+z")
    tab.see("Ground truth (2)")


def test_boxes_are_repaired_and_saved(tab: Tab, site: Site) -> None:
    file = site.labels("first")
    before = file.read_text()
    tab.open_image("first", a="", b="", split="")
    save = tab.page.locator("button.primary")
    tab.page.mouse.click(*tab.point(200, 180))
    tab.wait("document.querySelector('.editor input').disabled")  # looking does not change anything
    tab.page.get_by_role("button", name="Edit boxes (E)").click()
    tab.drag((200, 180), (230, 200))  # move
    assert side_values(tab) == [130, 120, 330, 280]
    tab.drag((330, 280), (350, 300))  # resize by the corner
    assert side_values(tab) == [130, 120, 350, 300]
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("Shift+ArrowUp")
    tab.page.keyboard.press("Alt+ArrowRight")
    assert side_values(tab) == [129, 110, 350, 290]
    tab.page.keyboard.press("Control+z")
    assert side_values(tab) == [129, 110, 349, 290]
    tab.page.get_by_label("y2").fill("291")
    tab.page.get_by_label("y2").press("Enter")
    tab.page.get_by_label("Class", exact=True).first.select_option(HTML)
    tab.page.locator("[role=option]").nth(1).click()
    tab.page.keyboard.press("Delete")
    tab.page.keyboard.press("n")
    tab.drag((32, 48), (96, 144))
    tab.page.keyboard.press("1")  # the first class
    assert file.read_text() == before
    assert "1 unsaved" in tab.page.locator(".bar").inner_text()
    tab.page.keyboard.press("PageDown")  # unsaved changes stay
    tab.see("gone", ".toolbar .name")
    tab.page.keyboard.press("PageUp")
    tab.see("first", ".toolbar .name")
    assert "3" in save.inner_text()
    tab.page.keyboard.press("Control+s")
    tab.see("Saved 3 changes", "#notice")
    assert_labels(file, [(1, [129, 110, 349, 291]), (0, [32, 48, 96, 144])])
    assert save.is_disabled()
    tab.page.reload()
    tab.see("Boxes (2)")
    file.write_text(before)


def assert_labels(file: Path, boxes: list[tuple[int, list[float]]]) -> None:
    """A YOLO file of an image of 640 x 480 px has these boxes, (class, xyxy px), but for what a hand misses."""
    found = np.array([[float(word) for word in row.split()] for row in file.read_text().splitlines()])
    center, half = found[:, 1:3] * (640, 480), found[:, 3:] * (640, 480) / 2
    assert found[:, 0].tolist() == [number for number, _ in boxes]
    np.testing.assert_allclose(np.hstack([center - half, center + half]), [box for _, box in boxes], atol=0.5)


def side_values(tab: Tab) -> list[float]:
    """The coordinates of the selected box as the panel has them, in whole px: a hand is not more exact."""
    return [round(float(tab.page.get_by_label(side, exact=True).input_value())) for side in ("x1", "y1", "x2", "y2")]


def test_concurrently_changed_labels_are_not_overwritten(tab: Tab, site: Site) -> None:
    file = site.labels("second")
    before = file.read_text()
    tab.open_image("second", a="", b="")
    tab.page.keyboard.press("e")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Delete")
    other = before + line("cell", [1, 1, 9, 9], 640, 480) + "\n"
    file.write_text(other)
    tab.page.keyboard.press("Control+s")
    tab.see("has changed since", "#error")
    assert file.read_text() == other
    tab.see("Boxes (0)")  # the change is still there, unsaved
    tab.page.get_by_role("button", name="Load the labels again").click()
    tab.see("Boxes (2)")
    assert tab.page.locator("button.primary").is_disabled()
    file.write_text(before)


def test_reloading_labels_keeps_changes_of_other_images(tab: Tab, site: Site) -> None:
    file = site.labels("first")
    before = file.read_text()
    tab.open_image("second", a="", b="", split="")
    tab.page.keyboard.press("e")
    for name in ("second", "gone", "first"):
        tab.see(name, ".toolbar .name")
        if name != "gone":
            tab.page.keyboard.press("ArrowDown")
            tab.page.keyboard.press("Delete")
        tab.page.keyboard.press("PageUp")
    tab.see("2 unsaved", ".bar")
    file.write_text(before + line("cell", [1, 1, 9, 9], 640, 480) + "\n")
    tab.page.keyboard.press("Control+s")
    tab.see("has changed since", "#error")
    for name in ("gone", "second"):
        tab.page.keyboard.press("PageDown")
        tab.see(name, ".toolbar .name")
    tab.page.get_by_role("button", name="Load the labels again").click()
    tab.see("1 unsaved", ".bar")
    tab.see("Boxes (0)")
    file.write_text(before)


def test_boxes_are_locked_while_saving(tab: Tab, site: Site) -> None:
    file = site.labels("first")
    before = file.read_text()
    tab.open_image("first", a="", b="", split="")
    requests: list[Any] = []
    tab.page.route("**/objects", lambda route: requests.append(route))
    tab.page.keyboard.press("e")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Control+s")
    tab.page.keyboard.press("Shift+ArrowRight")
    tab.see("are being saved", "#notice")
    assert side_values(tab)[0] == 101
    tab.page.keyboard.press("PageDown")
    tab.see("gone", ".toolbar .name")
    tab.page.keyboard.press("PageUp")
    tab.see("first", ".toolbar .name")
    (request,) = requests
    request.continue_()
    tab.see("Saved 1 change", "#notice")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Shift+ArrowRight")
    tab.page.keyboard.press("Control+s")
    tab.wait("document.querySelector('button.primary').textContent === 'Save (1)'")
    requests[1].continue_()
    tab.wait("document.querySelector('button.primary').textContent === 'Save'")
    assert_labels(file, [(0, [111, 100, 311, 260]), (1, [400, 200, 500, 400])])
    file.write_text(before)


def test_findings_are_accepted_and_dismissed(tab: Tab, site: Site) -> None:
    file = site.labels("third")
    tab.open(finding="any", split="train")
    tab.see("2 images match")
    tab.page.locator(".thumb").first.click()  # the one with the highest score
    tab.see("missing box: → cell", ".finding")
    tab.page.get_by_role("button", name="Accept finding 0").click()
    tab.see("accepted, not saved", ".finding")
    assert file.read_text() == ""
    tab.page.keyboard.press("Control+s")
    tab.see("Saved 1 change", "#notice")
    tab.see("Findings (0 open)")
    assert "not saved" not in tab.page.locator(".finding").inner_text()
    assert_labels(file, [(0, [200, 100, 300, 200])])
    tab.open_image("second")
    tab.page.get_by_role("button", name="Dismiss finding 1").click()
    tab.see("0.80 · dismissed", ".finding")
    tab.open(finding="any", split="train")
    tab.see("No image matches the filters")
    tab.open_image("second")
    tab.page.get_by_role("button", name="Reopen finding 1").click()
    tab.see("0.80 · open", ".finding")
    file.write_text("")


def test_read_only_set(browser: Any, site: Site) -> None:
    archive = shutil.make_archive(str(site.folder / "packed"), "zip", site.folder / "set")
    context = browser.new_context()
    with looking(archive) as address:
        tab = Tab(context, address)
        tab.open_image("first")
        tab.page.keyboard.press("e")
        tab.see("in an archive", "#error")
        assert tab.page.locator("button.primary").is_hidden()
        context.close()


def test_warnings_on_unevaluated_run_other_classes_missing_image(tab: Tab) -> None:
    tab.open_image("first", a="new", b="other")
    lines = tab.page.locator(".main > .warning").inner_text().splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("new: ")
    assert "boxwright evaluate" in lines[0]
    assert lines[1].startswith("other: 1 of its 1 classes are not in this set, such as dog")
    tab.open_image("gone")
    tab.see("gone.png", ".main > .warning")
    assert len(tab.page.locator(".main > .warning").inner_text().splitlines()) == 1
    tab.open(split="train", b="new")
    tab.see("boxwright evaluate", ".main > .warning")
    tab.see("The image cannot be read.", ".cell")


def test_keyboard_selects_and_help_lists_shortcuts(tab: Tab) -> None:
    tab.open_image("first", a="", b="")
    tab.page.keyboard.press("ArrowDown")
    tab.wait("document.querySelector('[role=option][aria-selected=true]')")
    assert "cell" in tab.page.locator("[aria-selected=true]").inner_text()
    tab.page.get_by_role("listbox").focus()
    tab.page.keyboard.press("ArrowDown")
    assert HTML in tab.page.locator("[aria-selected=true]").inner_text()
    assert HTML in tab.page.locator("#announce").inner_text()
    tab.page.keyboard.press("?")
    tab.see("Keyboard shortcuts", "dialog")
    assert tab.page.locator("dialog dt").count() > 20
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("dialog").is_hidden()
    tab.page.keyboard.press("e")  # a box without a mouse
    tab.page.keyboard.press("n")
    tab.page.keyboard.press("Enter")
    tab.see("Boxes (3)")
    assert "new" in tab.page.locator("[aria-selected=true]").inner_text()
    tab.page.keyboard.press("Control+z")
    tab.see("Boxes (2)")
    tab.page.route("**/api/**", lambda route: route.abort())
    tab.page.keyboard.press("PageDown")
    tab.see("The server does not answer", "[role=alert]")


def test_large_image_is_shown_in_tiles(tab: Tab) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    with tab.page.expect_response(lambda response: "/window?" in response.url):
        tab.open_image("large", a="", b="")
    windows = [url for url in asked if "/window?" in url]
    assert len(windows) == 1  # the overview
    assert f"scale={1024 / LARGE[0]}" in windows[0]
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("z")
    with tab.page.expect_response(
        lambda response: "/window?x=4096&y=2048&width=512&height=512&scale=1" in response.url
    ) as got:
        tab.page.keyboard.press("+")
    assert got.value.status == 200
    assert len([url for url in asked if "scale=1" in url]) < 30  # what is seen, not all 60


def test_drawing_speed_with_1000_boxes(tab: Tab) -> None:
    tab.open_image("many", a="", b="")
    assert tab.page.locator("[role=option]").count() == MANY
    script = """async () => {
        const canvas = document.querySelector("canvas.view");
        const frame = canvas.getBoundingClientRect();
        const at = (type, step) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerId: 1, button: 0, bubbles: true, clientX: frame.left + 300 + step, clientY: frame.top + 300 + step,
        }));
        canvas.setPointerCapture = () => {};
        at("pointerdown", 0);
        const times = [];
        canvas.drawTimes.length = 0;
        for (let step = 1; step <= 60; step += 1) {
            at("pointermove", 5 * (step % 20));
            times.push(await new Promise(requestAnimationFrame));
        }
        at("pointerup", 0);
        return { own: canvas.drawTimes.slice(), times };
    }"""
    found = tab.page.evaluate(script)
    frames = np.diff(found["times"])
    print(f"{np.median(found['own']):.1f} ms a draw, {np.median(frames):.1f} ms a frame, of {len(found['own'])} draws")
    assert len(found["own"]) >= 50  # one a frame
    assert np.median(found["own"]) < 1000 / 30
    assert np.median(frames) < 100  # 17 on a machine that has nothing else to do


def test_curves_update_during_training(tab: Tab, site: Site) -> None:
    log = site.folder / "runs" / "new" / "log.jsonl"
    tab.open(view="runs")
    tab.see("4 runs")
    tab.wait("document.querySelector('canvas.chart').ariaLabel.includes('new: 3.7 at step 40')")
    with log.open("a") as stream:
        stream.write(log_lines(range(50, 70, 10), 1.25))
    tab.wait("document.querySelector('canvas.chart').ariaLabel.includes('new: 1.25 at step 60')")
    tab.page.get_by_label("Term of the loss").select_option("xy")
    tab.wait("document.querySelector('canvas.chart').ariaLabel.includes('new: 0.625 at step 60')")
    before = log.read_text()
    log.write_text("no log\n")
    tab.see("new: ", ".page > .warning")
    log.write_text(before)


def test_metrics_have_intervals(tab: Tab) -> None:
    tab.open(view="runs")
    tab.see("0.400 [0.350, 0.450]", ".numbers td")
    tab.see("0.500 [0.400, 0.600]", ".numbers td")  # of a class
    tab.see("the intervals are rough", ".muted")
    tab.page.get_by_role("button", name="Metric").click()
    tab.wait("document.querySelector('table.runs tbody th').textContent === 'b'")


def test_dark_and_light_theme(browser: Any, site: Site) -> None:
    context = browser.new_context(color_scheme="dark")
    tab = Tab(context, site.address)
    tab.open()
    background = "getComputedStyle(document.body).backgroundColor"
    dark = tab.page.evaluate(background)
    assert max(map(int, re.findall(r"\d+", dark))) < 60
    tab.page.keyboard.press("t")
    assert min(map(int, re.findall(r"\d+", tab.page.evaluate(background)))) > 200
    tab.page.reload()
    tab.page.wait_for_selector("#panel *")
    assert tab.page.get_by_role("button", name="Theme: light").is_visible()
    context.close()


def test_layout_on_a_phone(browser: Any, site: Site) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    tab = Tab(context, site.address)
    for state in ({}, {"view": "runs"}):
        tab.open(**state)
        tab.page.wait_for_timeout(200)
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") == 390
    tab.open_image("first")
    assert tab.page.evaluate("document.scrollingElement.scrollWidth") == 390
    before = tab.page.locator(".zoom output").inner_text()
    fingers = context.new_cdp_session(tab.page)
    x, y = tab.point(320, 240)
    for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 60), ("touchEnd", 0)):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}] if apart else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    tab.wait(f"document.querySelector('.zoom output').textContent !== '{before}'")
    assert int(tab.page.locator(".zoom output").inner_text()[:-2]) > int(before[:-2])
    context.close()


def test_controls_have_accessible_names(tab: Tab) -> None:
    script = """() => [...document.querySelectorAll("button, a, input, select, [role=option], canvas[role]")]
        .filter((one) => one.checkVisibility())
        .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
        .map((one) => one.outerHTML)"""
    for state in ({}, {"view": "runs"}, {"view": "image", "id": 0}):
        tab.open(**state)
        tab.page.wait_for_timeout(300)
        assert tab.page.evaluate(script) == []


def test_wrong_token_is_rejected(tab: Tab, site: Site) -> None:
    root = site.address.rstrip("/").rpartition("/")[0]
    for path in ("/", "/wrong/", "/wrong/api/set", "/page/main.js"):
        response = tab.page.goto(root + path)
        assert response.status == 403
        assert "token" in response.json()["error"]


def test_requests_to_other_hosts_are_blocked(tab: Tab, site: Site) -> None:
    tab.open_image("first")
    script = """() => new Promise((resolve) => {
        addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
        fetch("http://192.0.2.1/").catch(() => {});
    })"""
    assert "192.0.2.1" in tab.page.evaluate(script)
    assert site.hosts - {"192.0.2.1"} == {site.address.partition("://")[2].partition("/")[0]}
