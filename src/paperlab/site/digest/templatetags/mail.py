"""Whether this site can send e-mail, for pages that would promise one."""

from typing import Any

from django import template
from django.conf import settings

from paperlab.core.home import home
from paperlab.site import door
from paperlab.site.digest import relay

register = template.Library()


@register.simple_tag(takes_context=True)
def mail_trouble(context: template.Context) -> str:
    """Why no e-mail can be sent now, and what to do; "" if one can. Only the owner is told what the relay said."""
    request: Any = context["request"]
    owner = door.is_keeper(request)
    if not settings.PAPERLAB_SMTP:
        if not owner:
            return "This site cannot send e-mail: it has no mail server. Only its owner can change that."
        return (
            f"This site has no mail server, so each e-mail becomes a file: open the newest one in {home()}/outbox. To"
            " send e-mail, set PAPERLAB_SMTP=smtp://user:password@host:port?tls=start and start the site again."
        )
    if (known := relay.trouble()) is None:
        return ""
    if not owner:
        return "The site's mail server is refusing e-mail at the moment. If no e-mail arrives, try again later."
    return (
        f"The mail server has refused this site's e-mail since {known.since:%Y-%m-%d %H:%M} UTC, {known.run} times: "
        f"{known.reason}. Check PAPERLAB_SMTP, PAPERLAB_FROM and the server's own log. The site keeps trying."
    )
