// Prints the id of the access key that the AWS SDK for JavaScript v3 gets.
const { defaultProvider } = require("@aws-sdk/credential-provider-node");

defaultProvider()().then((credentials) => console.log(credentials.accessKeyId));
