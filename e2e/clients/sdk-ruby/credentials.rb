# Prints the id of the access key that the AWS SDK for Ruby gets.
require "aws-sdk-core"

puts Aws::InstanceProfileCredentials.new.credentials.access_key_id
