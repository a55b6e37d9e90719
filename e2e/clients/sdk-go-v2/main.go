// Command sdk-go-v2 prints the id of the access key that the AWS SDK for Go v2 gets. It would fall
// back to IMDSv1 if IMDSv2 did not work.
package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
)

func main() {
	value, err := ec2rolecreds.New().Retrieve(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(value.AccessKeyID)
}
