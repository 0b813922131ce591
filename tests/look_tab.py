"""The page of `boxwright look` in a tab of a browser that Playwright controls."""

from pathlib import Path
from typing import Any

SECONDS = 20  # for anything that is waited for, on a busy machine


class Site:
    """The set's folder, the address of its page, and all hosts that were requested."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.hosts: set[str] = set()

    def labels(self, name: str) -> Path:
        return self.folder / "set" / "labels" / "train" / f"{name}.txt"


class Tab:
    """A tab of the browser with shorthands."""

    def __init__(self, context: Any, address: str) -> None:
        self.address = address
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, **state: object) -> None:
        """Show a state of the page, as a fresh start."""
        self.page.goto("about:blank")
        self.page.goto(self.address + "#" + "&".join(f"{name}={value}" for name, value in state.items()))
        self.page.wait_for_selector("#panel *", state="attached")

    def see(self, text: str, place: str = "body") -> None:
        """Wait until a place shows a text."""
        self.page.locator(place, has_text=text).first.wait_for()

    def wait(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds."""
        for _ in range(20 * SECONDS):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"after {SECONDS} s not yet: {condition}")

    def open_image(self, name: str, **state: object) -> None:
        """Show one image of the set, by the grid's list."""
        found = self.page.request.get(f"{self.address}api/images?limit=100").json()["images"]
        (number,) = (row["id"] for row in found if row["name"].endswith(f"/{name}.png"))
        self.open(view="image", id=number, **state)
        self.see(name, ".toolbar .name")
        self.wait("document.querySelector('canvas.view').drawTimes.length > 0")

    def point(self, x: float, y: float, pane: int = 0) -> tuple[float, float]:
        """Screen position of a pixel of an image of 640 x 480 px that is shown completely."""
        frame = self.page.locator("canvas.view").nth(pane).bounding_box()
        scale = 0.98 * min(frame["width"] / 640, frame["height"] / 480)
        center = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
        return center[0] + (x - 320) * scale, center[1] + (y - 240) * scale

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self.point(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.point((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        self.page.mouse.move(*self.point(*end))
        self.page.mouse.up()

    def color(self, x: float, y: float, pane: int = 0) -> list[int]:
        """RGB of the screen at a pixel of the image."""
        left, top = self.point(x, y, pane)
        frame = self.page.locator("canvas.view").nth(pane).bounding_box()
        script = """([pane, x, y]) => {
            const canvas = document.querySelectorAll("canvas.view")[pane];
            return [...canvas.getContext("2d").getImageData(Math.round(x), Math.round(y), 1, 1).data.slice(0, 3)];
        }"""
        found: list[int] = self.page.evaluate(script, [pane, left - frame["x"], top - frame["y"]])
        return found
