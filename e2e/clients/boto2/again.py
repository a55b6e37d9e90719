"""Prints the id of the access key that Boto 2 gets, anew for each line that it reads."""

import sys

from boto.provider import Provider

for _ in sys.stdin:
    print(Provider("aws").access_key, flush=True)
