"""Write the table of systems into README.md, from the recipes: `make table`."""

from pathlib import Path

from boxwright import recipe

README = Path(__file__).parents[1] / "README.md"
HEAD = "| recipe | what | published |\n| --- | --- | --- |\n"


def table() -> str:
    """One row a recipe: its name, its summary, and what is published of it, with the source."""
    rows = []
    for name in recipe.names():
        chosen = recipe.load(name)
        claim, published = chosen.expect, ""
        if claim.value is not None:
            origin = ", ".join(part for part in (claim.source, claim.hardware) if part)
            published = f"{claim.metric} {claim.value * 100:.1f} ({origin})"
        rows.append(f"| `{name}` | {chosen.summary} | {published} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(HEAD)
    README.write_text(before + table() + rest[rest.index("\n\n") + 1 :], encoding="utf-8")
