"""Prints the id of the access key that Boto 2 gets. Boto 2 never learnt IMDSv2."""

from boto.provider import Provider

print(Provider("aws").access_key)
