// Prints the id of the access key that awscred gets.
const awscred = require("awscred");

awscred.loadCredentials((error, credentials) => {
  if (error) throw error;
  console.log(credentials.accessKeyId);
});
