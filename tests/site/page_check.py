"""What every page must keep to, read by a parser that we did not write: no inline script or style, no bad address."""

from html.parser import HTMLParser
from urllib.parse import urlsplit

# What a parser ends an open paragraph for, wherever it stands in it.
NO_TEXT = {
    "address", "article", "aside", "blockquote", "details", "dialog", "div", "dl", "fieldset", "figure", "footer", "ul",
    "form", "h1", "h2", "h3", "h4", "header", "hr", "main", "nav", "ol", "p", "pre", "section", "summary", "table",
}  # fmt: skip
VOID = {"meta", "link", "input", "br", "img", "hr", "line", "rect", "circle", "path", "mspace"}


class Page(HTMLParser):
    """A page taken apart. wrong: what it should not hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.marked: list[str] = []
        self.feed(text)
        self.close()
        if self.open:
            self.wrong.append(f"not closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "form" and "form" in self.open:
            self.wrong.append(f"a form in a form, which browsers leave out: {known}")
        if tag in NO_TEXT and "p" in self.open:
            self.wrong.append(f"<{tag}> ends the paragraph that it is in: {known}")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script" and not (known.get("src") or "").startswith("/static/"):
            self.wrong.append(f"script {known}")
        if tag in ("style", "iframe", "object", "embed", "base"):
            self.wrong.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style" or name == "srcdoc":
                self.wrong.append(f"{tag} {name}={value}")
            if name in ("href", "src", "action", "formaction", "xlink:href") and value is not None:
                if urlsplit(value).scheme not in ("", "http", "https"):
                    self.wrong.append(f"{tag} {name}={value}")
                if tag == "a":
                    self.links.append(value)
            if name == "id" and value is not None:
                if value in self.ids:
                    self.wrong.append(f"id {value} twice")
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> within {self.open[-4:]}")
            if tag in self.open:
                while self.open.pop() != tag:
                    pass
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)
