"""docs/licences.md lists what is installed, with what each package says."""

from tests.licences import NOT_HERE, PROJECT, page


def test_the_page_lists_every_package_with_its_licence() -> None:
    listed = (PROJECT.parent / "docs" / "licences.md").read_text().splitlines()
    told = [line for line in page().splitlines() if NOT_HERE not in line]
    assert [line for line in told if line not in listed] == []
    packages = {line.split(" | ")[1] for line in listed if line.startswith("|")}
    wanted = {line.split(" | ")[1] for line in page().splitlines() if line.startswith("|")}
    assert packages == wanted
