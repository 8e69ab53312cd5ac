"""The WSGI application."""

from django.core.handlers.wsgi import WSGIHandler

from paperlab.site.start import start

start()
application = WSGIHandler()
