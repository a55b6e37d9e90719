// Command sdk-go-v1 prints the id of the access key that an AWS SDK for Go of 2019 gets. That SDK
// knows IMDSv1 alone.
package main

import (
	"fmt"

	"github.com/aws/aws-sdk-go/aws/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go/aws/session"
)

func main() {
	value, err := ec2rolecreds.NewCredentials(session.Must(session.NewSession())).Get()
	if err != nil {
		panic(err)
	}
	fmt.Println(value.AccessKeyID)
}
