"""XML from outside: no entities, no external anything, namespaces ignored where names are unique without them."""

import io
from collections.abc import Iterator
from typing import Any

from paperlab.site.store.item import Malformed

Element = Any  # xml.etree's Element; defusedxml hands it out


def parse(content: bytes) -> Element:
    """The root element. Raises Malformed with the parser's reason, also for entities (a billion laughs)."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        return fromstring(content)
    except DefusedXmlException as error:
        raise Malformed(f"XML that declares entities is not read ({type(error).__name__})") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise Malformed(f"not well-formed XML: {error}") from error


def each(content: bytes, *tags: str) -> Iterator[Element]:
    """Every element with one of these local names, in order, up to where the document breaks.

    Raises Malformed at the break, after all whole elements before it were given.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        for _, element in iterparse(io.BytesIO(content), events=("end",)):
            if local(element) in tags:
                yield element
    except DefusedXmlException as error:
        raise Malformed(f"XML that declares entities is not read ({type(error).__name__})") from error
    except (ParseError, ValueError, LookupError) as error:
        raise Malformed(f"not well-formed XML: {error}") from error


def local(element: Element) -> str:
    """An element's name without its namespace."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def child(element: Element, name: str) -> Element | None:
    """The first child of this local name."""
    return next((inner for inner in element if local(inner) == name), None)


def children(element: Element, name: str) -> list[Element]:
    """All children of this local name."""
    return [inner for inner in element if local(inner) == name]


def text(element: Element, name: str) -> str:
    """The text within the first child of this local name; "" without one."""
    first = child(element, name)
    return "".join(first.itertext()) if first is not None else ""
