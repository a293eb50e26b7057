"""The script's editor, the keyboard, and narrow screens."""

import pytest
from playwright.sync_api import expect

TABS = ("Speak", "Voices", "History")
NAME = """() => {
    const { activeElement: element } = document;
    const labels = [...(element.labels ?? [])].map((label) => label.textContent.trim());
    return element.getAttribute("aria-label") ?? labels[0] ?? element.textContent.trim();
}"""  # of the focused control, to a screen reader


def area(page):
    return page.get_by_label("Script", exact=True)


def selected(page):
    return area(page).evaluate("(area) => area.value.slice(area.selectionStart, area.selectionEnd)")


def test_issues_are_shown_at_their_place(server, visit):
    """An issue had no place, or, after an emoji, one that was off."""
    page = visit(server)
    area(page).fill("[S1] Hello 😀. (laugh)\n[S2] Yes, [S5] you!")
    issues = page.get_by_label("Issues of the script").get_by_role("listitem")
    expect(issues).to_have_count(2)
    expect(issues.nth(0)).to_contain_text("1:15 (laugh) is no sound that Dia was trained on; the nearest is (laughs)")
    assert page.locator(".dia-colors .dia-wrong").all_inner_texts() == ["(laugh)", "[S5]"]
    issues.nth(0).get_by_role("button").click()
    assert selected(page) == "(laugh)"
    issues.nth(1).get_by_role("button").click()
    assert selected(page) == "[S5]"
    area(page).fill("[S1] Hello. (laughs) [S2] Yes!")
    expect(issues).to_have_count(0)
    assert page.locator(".dia-colors mark").all_inner_texts() == ["[S1]", "(laughs)", "[S2]"]


def test_the_colors_are_where_the_text_is(server, visit):
    """The colored text was not under the transparent one after a long line, a scroll bar or a scroll."""
    page = visit(server)
    for script in ("[S1] Hello.", "[S1] one two three four five six\n\n" * 40 + "[S2] end  of   it\n"):
        area(page).fill(script)
        sizes = page.evaluate("""() => {
            const [area, colors] = [document.querySelector("#dia-script"), document.querySelector(".dia-colors")];
            area.scrollTop = 1e6;
            area.dispatchEvent(new Event("scroll"));
            return [area.scrollTop - colors.scrollTop, area.clientWidth - colors.clientWidth];
        }""")
        assert max(map(abs, sizes)) <= 2
        assert page.locator(".dia-colors").evaluate("(colors) => colors.textContent") == script + "\n"


def test_tags_are_inserted_at_the_cursor(server, visit):
    """A tag was inserted at the end of the script, or without a space before it."""
    page = visit(server)
    area(page).fill("[S1] Hello. Hi!")
    area(page).evaluate("(area) => area.setSelectionRange(11, 11)")
    page.get_by_role("button", name="Insert speaker S2").click()
    page.get_by_label("Sound", exact=True).select_option("sighs")
    page.get_by_role("button", name="Insert the sound").click()
    expect(area(page)).to_have_value("[S1] Hello. [S2] (sighs)  Hi!")
    expect(area(page)).to_be_focused()


def test_the_script_survives_a_reload(server, visit):
    """A text was lost when the page was loaded again."""
    page = visit(server)
    area(page).fill("[S1] My long text.")
    page.reload()
    expect(area(page)).to_have_value("[S1] My long text.")


def test_a_text_that_is_too_long(server, visit):
    """The end of a pasted text was cut off silently."""
    page = visit(server)
    area(page).fill("[S1] word " * 500)
    expect(page.locator("dia-editor")).to_contain_text("`input` has 5,000 characters; give at most 4,096.")
    assert len(area(page).input_value()) == 5000


def test_the_keyboard_alone(server, visit):
    """A control could not be reached, seen or used without a mouse."""
    page = visit(server)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(NAME))
        if reached[-1] == "Script":
            break
    assert reached[:1] == ["Speak"] and reached[-1] == "Script"  # the tab; then the editor
    outline = area(page).evaluate("(area) => getComputedStyle(area).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Control+a")
    page.keyboard.type("[S1] Hello.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".dia-status").first).to_contain_text("seed")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(NAME))
    assert all(reached), "a control without a name"
    for name in ("Download", "Voice of S1", "Position in the speech, in seconds", "range slider for Temperature"):
        assert name in reached
    assert any(name.startswith("Seed") for name in reached)


@pytest.mark.parametrize("width", [375, 768])
def test_narrow_screens(server, visit, width):
    """The page had to be scrolled sideways on a telephone."""
    page = visit(server, viewport={"width": width, "height": 700})
    area(page).fill("[S1] " + "Supercalifragilistic" * 10 + " (" + "unknown" * 3 + ")")
    expect(page.get_by_label("Issues of the script").get_by_role("listitem")).to_have_count(1)
    page.locator("#dia-speak").click()
    expect(page.locator(".dia-status").first).to_contain_text("seed")
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        wide = page.evaluate(
            """(width) => [...document.querySelectorAll(".gradio-container *")]
                .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > width + 1)
                .map((element) => element.outerHTML.slice(0, 100))""",
            width,
        )
        assert wide == []
