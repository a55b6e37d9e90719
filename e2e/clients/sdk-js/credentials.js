// Prints the id of the access key that the AWS SDK for JavaScript gets.
const AWS = require("aws-sdk");

const credentials = new AWS.EC2MetadataCredentials();
credentials.refresh((error) => {
  if (error) throw error;
  console.log(credentials.accessKeyId);
});
