package software

// speakers are the libraries that call IMDS, or that decide which one does, by ecosystem.
var speakers = map[string][]string{
	Go: {
		"github.com/aws/aws-sdk-go",
		"github.com/aws/aws-sdk-go-v2",
		"github.com/aws/aws-sdk-go-v2/config",
		"github.com/aws/aws-sdk-go-v2/credentials",
		"github.com/aws/aws-sdk-go-v2/feature/ec2/imds",
		"github.com/AdRoll/goamz",
		"github.com/crowdmob/goamz",
		"github.com/goamz/goamz",
		"github.com/mitchellh/goamz",
		"github.com/minio/minio-go",
		"github.com/minio/minio-go/v6",
		"github.com/minio/minio-go/v7",
		"gopkg.in/amz.v1",
		"gopkg.in/amz.v3",
	},
	PyPI: {"boto", "boto3", "botocore", "aiobotocore", "awscli", "cloud-init", "ec2-metadata", "s3cmd", "salt"},
	NPM: {
		"aws-sdk",
		"awscred",
		"@aws-sdk/credential-provider-imds",
		"@aws-sdk/credential-provider-node",
		"@aws-sdk/ec2-metadata-service",
		"@smithy/credential-provider-imds",
	},
	Maven: {
		"com.amazonaws:aws-java-sdk",
		"com.amazonaws:aws-java-sdk-bundle",
		"com.amazonaws:aws-java-sdk-core",
		"com.netflix.eureka:eureka-client",
		"software.amazon.awssdk:auth",
		"software.amazon.awssdk:bundle",
		"software.amazon.awssdk:imds",
		"software.amazon.awssdk:regions",
		"software.amazon.awssdk:sdk-core",
	},
	RubyGems: {"aws-sdk", "aws-sdk-core", "aws-sdk-v1", "facter", "fog", "fog-aws", "ohai", "right_aws"},
	Composer: {"aws/aws-sdk-php"},
	NuGet:    {"AWSSDK", "AWSSDK.Core"},
}
