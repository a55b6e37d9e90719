"""Prints the id of the access key that boto3 gets by IMDSv2."""

import boto3

print(boto3.Session().get_credentials().access_key)
