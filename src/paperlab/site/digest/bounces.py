"""Bounces: reports of mail that could not be delivered (RFC 3464), read to write to such addresses no more."""

import email
import email.policy
from email.message import EmailMessage

from paperlab.site.digest.post import is_gone

LIMIT = 1_000_000  # bytes of one report


def failed(report: bytes) -> list[str]:
    """The addresses at which a delivery report says there is nobody; none for a full mailbox, a blocklist, or else."""
    try:
        letter = email.message_from_bytes(report[:LIMIT], policy=email.policy.default)
        parts = [part for part in letter.walk() if part.get_content_type() == "message/delivery-status"]
        addresses = []
        for part in parts:
            for block in part.get_payload() or ():
                if isinstance(block, EmailMessage) and (address := _gone(block)):
                    addresses.append(address)
        return addresses
    except (ValueError, LookupError, TypeError, AttributeError):  # what the parser does not expect of hostile mail
        return []


def _gone(block: EmailMessage) -> str:
    action, status = str(block.get("Action", "")).strip().lower(), str(block.get("Status", "")).strip()
    kind, _, address = str(block.get("Original-Recipient") or block.get("Final-Recipient") or "").partition(";")
    gone = action == "failed" and is_gone(status) and kind.strip().lower() == "rfc822"
    return address.strip().strip("<>").lower() if gone else ""
