package client

const minioGo = "minio-go"

const (
	minimums = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/use-a-supported-sdk-version-for-imdsv2.html"
	settings = "https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html"
)

// sdks are AWS's libraries and command lines, and others that stand in for them.
var sdks = []Row{
	{
		Name: "aws-cli", Kind: CLI, Title: "AWS CLI",
		Products: []Product{{Name: "aws-cli"}}, Executables: []string{"aws"}, Scripts: []string{"aws", "awscli"},
		Packages: []string{"awscli", "aws-cli", "awscli-2"}, Modules: []Module{{Ecosystem: PyPI, Name: "awscli"}},
		On: []string{"botocore"}, CallsBySDK: "1", Support: Since, First: "1.16.289", NoFallback: true,
		Link: minimums, Source: minimums,
		Example: "aws-cli/1.16.102 Python/2.7.16 Linux/4.14.123-111.109.amzn2.x86_64 botocore/1.12.92",
	},
	{
		Name: "aws-powershell", Kind: CLI, Title: "AWS Tools for PowerShell",
		Products: []Product{{Name: "awspowershell"}, {Name: "awspowershell.common"}, {Name: "awspowershell.netcore"}},
		Family:   "dotnet", On: []string{"aws-sdk-dotnet"}, Support: Since, First: "4.0.1.0", NoFallback: true,
		Link: minimums, Source: minimums,
		Example: "AWSPowerShell/3.3.590.0 .NET_Runtime/4.0 .NET_Framework/4.0 OS/Microsoft_Windows_NT_10.0",
	},
	{
		Name: "aws-sdk-dotnet", Kind: SDK, Title: "AWS SDK for .NET",
		Products: []Product{
			{Name: "aws-sdk-dotnet"}, {Name: "aws-sdk-dotnet-35"}, {Name: "aws-sdk-dotnet-45"},
			{Name: "aws-sdk-dotnet-core"}, {Name: "aws-sdk-dotnet-coreclr"}, {Name: "aws-sdk-dotnet-framework"},
		},
		Also: []string{""}, Modules: []Module{{Ecosystem: NuGet, Name: "AWSSDK.Core"}}, Family: "dotnet",
		Support: Since, First: "3.3.634.1", Loose: true, NoFallback: true, Link: minimums, Source: minimums,
		Note:    "3.3.634.1 numbers the whole release; AWSSDK.Core 3.3 has numbers of its own, so 3.3 cannot be told.",
		Example: "aws-sdk-dotnet-coreclr/3.3.107.40 .NET_Core/4.6.28619.01 OS/Linux_4.14",
	},
	{
		Name: "aws-sdk-cpp", Kind: SDK, Title: "AWS SDK for C++",
		Products: []Product{{Name: "aws-sdk-cpp"}}, Family: "native",
		Support: Since, First: "1.7.229", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-cpp/1.7.108 Linux/4.14.133-113.105.amzn2.x86_64 x86_64 GCC/7.3.1",
	},
	{
		Name: "aws-sdk-go", Kind: SDK, Title: "AWS SDK for Go v1",
		Products: []Product{{Name: "aws-sdk-go"}}, Modules: []Module{{Ecosystem: Go, Name: "github.com/aws/aws-sdk-go"}},
		Family: "native", Support: Since, First: "1.25.38", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-go/1.19.0 (go1.13; linux; amd64)",
	},
	{
		Name: "aws-sdk-go-v2", Kind: SDK, Title: "AWS SDK for Go v2",
		Products: []Product{{Name: "aws-sdk-go-v2"}},
		Modules: []Module{
			{Ecosystem: Go, Name: "github.com/aws/aws-sdk-go-v2"},
			{Ecosystem: Go, Name: "github.com/aws/aws-sdk-go-v2/feature/ec2/imds", NoVersion: true},
		},
		Family: "native", Support: Since, First: "0.19.0", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-go-v2/1.17.1 os/linux lang/go#1.19 md/GOOS#linux md/GOARCH#amd64 ft/ec2imds",
	},
	{
		Name: "aws-sdk-java", Kind: SDK, Title: "AWS SDK for Java 1.x",
		Products: []Product{{Name: "aws-sdk-java", Major: "1"}},
		Modules: []Module{
			{Ecosystem: Maven, Name: "aws-java-sdk-core", Major: "1"}, {Ecosystem: Maven, Name: "aws-java-sdk-bundle", Major: "1"},
			{Ecosystem: Maven, Name: "aws-java-sdk", Major: "1"},
		},
		Family: "java", Support: Since, First: "1.11.678", NoFallback: true, Link: minimums, Source: minimums,
		Note:    "1.11.678 fetches a token for each request.",
		Example: "aws-sdk-java/1.11.515 Linux/4.14.97-90.72.amzn2.x86_64 OpenJDK_64-Bit_Server_VM/25.201-b09 java/1.8.0_201",
	},
	{
		Name: "aws-sdk-java-v2", Kind: SDK, Title: "AWS SDK for Java 2.x",
		Products: []Product{{Name: "aws-sdk-java", Major: "2"}},
		Modules: []Module{
			{Ecosystem: Maven, Name: "sdk-core", Major: "2"}, {Ecosystem: Maven, Name: "aws-core", Major: "2"},
			{Ecosystem: Maven, Name: "software.amazon.awssdk:bundle", Major: "2"},
			{Ecosystem: Maven, Name: "software.amazon.awssdk:auth", Major: "2"},
			{Ecosystem: Maven, Name: "software.amazon.awssdk:regions", Major: "2"},
		},
		Family: "java", Support: Since, First: "2.10.21", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-java/2.9.1",
	},
	{
		Name: "aws-sdk-js", Kind: SDK, Title: "AWS SDK for JavaScript v2",
		Products: []Product{{Name: "aws-sdk-nodejs"}}, Also: []string{""},
		Modules: []Module{{Ecosystem: NPM, Name: "aws-sdk"}}, Family: "node",
		Support: Since, First: "2.722.0", NoFallback: true, Link: minimums, Source: minimums,
		Note:    "Token requests, and calls with a token, carry no User-Agent.",
		Example: "aws-sdk-nodejs/2.400.0 linux/v12.22.9",
	},
	{
		Name: "aws-sdk-js-v3", Kind: SDK, Title: "AWS SDK for JavaScript v3",
		Products: []Product{{Name: "aws-sdk-js", Major: "3"}}, Also: []string{""},
		Modules: []Module{
			{Ecosystem: NPM, Name: "@aws-sdk/credential-provider-imds"},
			{Ecosystem: NPM, Name: "@aws-sdk/credential-provider-node"},
			{Ecosystem: NPM, Name: "@aws-sdk/ec2-metadata-service"},
			{Ecosystem: NPM, Name: "@smithy/credential-provider-imds", NoVersion: true},
		},
		Family: "node", Support: Always, NoFallback: true, Link: settings, Source: settings,
		Note: "Its calls carry no User-Agent.",
	},
	{
		Name: "aws-sdk-php", Kind: SDK, Title: "AWS SDK for PHP",
		Products: []Product{{Name: "aws-sdk-php"}}, Modules: []Module{{Ecosystem: Composer, Name: "aws/aws-sdk-php"}},
		Family: "php", Support: Since, First: "3.147.7", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-php/3.112.9 GuzzleHttp/6.3.3 curl/7.61.1 PHP/7.2.19",
	},
	{
		Name: "botocore", Kind: SDK, Title: "botocore",
		Products: []Product{{Name: "botocore"}}, Modules: []Module{{Ecosystem: PyPI, Name: "botocore"}}, Family: "python",
		Support: Since, First: "1.13.25", NoFallback: true, Link: minimums, Source: minimums,
		Example: "Botocore/1.12.253 Python/3.6.8 Linux/4.14.138-114.102.amzn2.x86_64",
	},
	{
		Name: "boto3", Kind: SDK, Title: "Boto3",
		Products: []Product{{Name: "boto3"}}, Modules: []Module{{Ecosystem: PyPI, Name: "boto3"}}, Family: "python",
		On: []string{"botocore"}, CallsBySDK: "1", Support: Since, First: "1.12.6", NoFallback: true, Link: minimums, Source: minimums,
		Example: "Boto3/1.9.253 Python/3.6.8 Linux/4.14.138-114.102.amzn2.x86_64 Botocore/1.12.253",
	},
	{
		Name: "boto2", Kind: SDK, Title: "Boto 2",
		Products: []Product{{Name: "boto"}}, Also: []string{"python-urllib"},
		Modules: []Module{{Ecosystem: PyPI, Name: "boto"}}, Family: "python",
		Support: Never, Replace: true, Fix: "replace Boto 2 by Boto3 1.12.6 or later: no release of it speaks v2",
		Link: "https://boto3.amazonaws.com/v1/documentation/api/latest/guide/migration.html", Source: "https://github.com/boto/boto/blob/develop/boto/utils.py",
		Note: "To the metadata service it says Python-urllib.",
	},
	{
		Name: "aws-sdk-ruby", Kind: SDK, Title: "AWS SDK for Ruby v3",
		Products: []Product{{Name: "aws-sdk-ruby3"}}, Modules: []Module{{Ecosystem: RubyGems, Name: "aws-sdk-core", Major: "3"}},
		Family: "ruby", Support: Since, First: "3.79.0", NoFallback: true, Link: minimums, Source: minimums,
		Example: "aws-sdk-ruby3/3.61.1",
	},
	{
		Name: "aws-sdk-ruby-v2", Kind: SDK, Title: "AWS SDK for Ruby v2",
		Products: []Product{{Name: "aws-sdk-ruby2"}}, Modules: []Module{{Ecosystem: RubyGems, Name: "aws-sdk-core", Major: "2"}},
		Family: "ruby", Support: Since, First: "2.11.401",
		Link: "https://github.com/aws/aws-sdk-ruby/releases/tag/v2.11.401", Source: "https://gist.github.com/breser/7ad0c4f07ccf4ae150d695248df76a8b",
		Example: "aws-sdk-ruby2/2.10.9",
	},
	{
		Name: "aws-sdk-rust", Kind: SDK, Title: "AWS SDK for Rust",
		Products: []Product{{Name: "aws-sdk-rust"}}, Family: "native", Support: Always,
		Link: "https://docs.rs/aws-config/latest/aws_config/imds/credentials/index.html", Source: "https://docs.rs/aws-config/0.14.0/aws_config/imds/credentials/index.html",
		Note: "It never falls back to v1.", Example: "aws-sdk-rust/0.55.3 os/linux lang/rust/1.70.0",
	},
	{
		Name: "aws-sdk-kotlin", Kind: SDK, Title: "AWS SDK for Kotlin",
		Products: []Product{{Name: "aws-sdk-kotlin"}}, Modules: []Module{{Ecosystem: Maven, Name: "aws.sdk.kotlin:aws-core"}}, Family: "java",
		Support: Always, Link: settings, Source: settings, Note: "It never falls back to v1.",
		Example: "aws-sdk-kotlin/1.0.30 ua/2.0 os/linux lang/kotlin#1.9.10",
	},
	{
		Name: "aws-sdk-swift", Kind: SDK, Title: "AWS SDK for Swift",
		Products: []Product{{Name: "aws-sdk-swift"}}, Family: "native",
		Support: Always, NoFallback: true, Link: settings, Source: settings,
		Example: "aws-sdk-swift/1.0.0 ua/2.1 os/linux lang/swift#5.9",
	},
	{
		Name: "aws-api", Kind: SDK, Title: "Cognitect aws-api",
		Modules: []Module{{Ecosystem: Maven, Name: "com.cognitect.aws:api"}}, Family: "java", Support: Since, First: "0.8.711",
		Link: "https://github.com/cognitect-labs/aws-api", Source: "https://github.com/cognitect-labs/aws-api/issues/165",
	},
	{
		Name: "jets3t", Kind: SDK, Title: "JetS3t",
		Modules: []Module{{Ecosystem: Maven, Name: "jets3t"}}, Family: "java",
		Support: Never, Replace: true, Fix: "replace JetS3t by the AWS SDK for Java 2.x: no release of it speaks v2",
		Link: "https://docs.aws.amazon.com/sdk-for-java/latest/developer-guide/home.html", Source: "https://github.com/mondain/jets3t/issues/21",
	},
	{
		Name: minioGo, Kind: SDK, Title: "MinIO's client for Go",
		Also: []string{"go-http-client"}, Modules: []Module{{Ecosystem: Go, Name: "github.com/minio/minio-go"}},
		Family: "native", Support: Since, First: "7.0.13",
		Link: "https://github.com/minio/minio-go/releases", Source: "https://github.com/minio/minio-go/pull/1507",
		Note: "Derived: 7.0.11 learnt it (#1489), 7.0.12 cannot (restic/restic#3538), #1507 is the fix after it.",
	},
	{
		Name: "awscred", Kind: SDK, Title: "awscred",
		Also: []string{""}, Modules: []Module{{Ecosystem: NPM, Name: "awscred"}}, Family: "node",
		Support: Never, Replace: true, Fix: "replace awscred by @aws-sdk/credential-providers: no release of it speaks v2",
		Link: "https://docs.aws.amazon.com/sdk-for-javascript/v3/developer-guide/setting-credentials-node.html", Source: "https://github.com/mhart/awscred",
		Note: "Its calls carry no User-Agent.",
	},
	{
		Name: "newrelic-go", Kind: SDK, Title: "New Relic Go agent",
		Also: []string{"go-http-client"}, Modules: []Module{{Ecosystem: Go, Name: "github.com/newrelic/go-agent"}},
		Family: "native", Support: Since, First: "3.10.0",
		Link:   "https://docs.newrelic.com/docs/release-notes/agent-release-notes/go-release-notes/go-agent-3100/",
		Source: "https://docs.newrelic.com/docs/release-notes/agent-release-notes/go-release-notes/go-agent-3100/",
	},
}
