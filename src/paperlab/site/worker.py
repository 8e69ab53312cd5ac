"""The worker's entry point, as asgi.py is the server's: python -m paperlab.site.worker"""

from paperlab.site.commands.worker import main

if __name__ == "__main__":
    main()
