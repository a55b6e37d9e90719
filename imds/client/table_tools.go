package client

// tools are run by somebody, or by another program.
var tools = []Row{
	{
		Name: "terraform", Kind: Tool, Title: "Terraform",
		Products: []Product{{Name: "terraform"}, {Name: "terraform-provider-aws", NoVersion: true}}, Executables: []string{"terraform", "terraform-provider-aws"},
		Packages: []string{"terraform"}, Modules: []Module{{Ecosystem: Go, Name: "github.com/hashicorp/terraform"}, {Ecosystem: Go, Name: "github.com/hashicorp/terraform-provider-aws", NoVersion: true}},
		Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: ByLibrary,
		Link: "https://registry.terraform.io/providers/hashicorp/aws/latest/docs", Source: "https://github.com/hashicorp/vault/issues/7924",
		Note:    "The AWS provider asks by the AWS SDK (terraform-provider-aws#10949).",
		Example: "APN/1.0 HashiCorp/1.0 Terraform/0.12.6 (+https://www.terraform.io) aws-sdk-go/1.23.0 (go1.12.6; linux; amd64)",
	},
	{
		Name: "packer", Kind: Tool, Title: "Packer", Products: []Product{{Name: "packer"}}, Executables: []string{"packer", "packer-plugin-amazon"},
		Packages: []string{"packer"}, Modules: []Module{{Ecosystem: Go, Name: "github.com/hashicorp/packer"}, {Ecosystem: Go, Name: "github.com/hashicorp/packer-plugin-amazon", NoVersion: true}},
		Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: ByLibrary,
		Link: "https://developer.hashicorp.com/packer/integrations/hashicorp/amazon", Source: "https://github.com/hashicorp/packer-plugin-amazon/blob/main/go.mod",
	},
	{
		Name: "s3fs", Kind: Tool, Title: "s3fs", Products: []Product{{Name: "s3fs"}}, Executables: []string{"s3fs"}, Packages: []string{"s3fs", "s3fs-fuse"}, Family: "native",
		Support: Since, First: "1.91", AtMost: true, Link: "https://github.com/s3fs-fuse/s3fs-fuse/releases", Source: "https://github.com/s3fs-fuse/s3fs-fuse/blob/master/ChangeLog",
		Note:    "1.88 can (#1462), but looks for the role by v1 with iam_role=auto (#1760). `imdsv1only` switches v2 off.",
		Example: "s3fs/1.90 (commit hash 9d1552a; OpenSSL)",
	},
	{
		Name: "rclone", Kind: Tool, Title: "rclone", Products: []Product{{Name: "rclone"}}, Executables: []string{"rclone"}, Packages: []string{"rclone"},
		Modules: []Module{{Ecosystem: Go, Name: "github.com/rclone/rclone"}}, Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: Since, First: "1.68.0", AtMost: true,
		Link: "https://rclone.org/s3/", Source: "https://rclone.org/changelog/", Note: "1.68.0 moved to the AWS SDK for Go v2.",
	},
	{
		Name: "s3cmd", Kind: Tool, Title: "s3cmd", Scripts: []string{"s3cmd"}, Packages: []string{"s3cmd"}, Modules: []Module{{Ecosystem: PyPI, Name: "s3cmd"}}, Family: "python",
		Support: Since, First: "2.3.0", Link: "https://s3tools.org/s3cmd", Source: "https://github.com/s3tools/s3cmd/issues/1272",
	},
	{
		Name: "restic", Kind: Tool, Title: "restic", Executables: []string{"restic"}, Packages: []string{"restic"},
		Modules: []Module{{Ecosystem: Go, Name: "github.com/restic/restic"}}, Family: "native", On: []string{minioGo}, Support: Since, First: "0.14.0", AtMost: true,
		Link: "https://github.com/restic/restic/releases", Source: "https://github.com/restic/restic/issues/3965",
		Note: "0.12.1 cannot; 0.14.0, as Debian has it, fetches a token.",
	},
	{
		Name: "ec2metadata", Kind: Tool, Title: "ec2metadata of cloud-utils", Scripts: []string{"ec2metadata"}, Packages: []string{"cloud-guest-utils", "cloud-utils"}, Family: "python",
		Support: Since, First: "0.33", AtMost: true, Link: "https://github.com/canonical/cloud-utils",
		Source: "https://bugs.debian.org/952563", Note: "Debian's can from 0.31-2 on.",
	},
	{
		Name: "byobu", Kind: Tool, Title: "Byobu", Scripts: []string{"byobu-status"}, Packages: []string{"byobu"}, Family: "shell",
		Support: Never, Fix: "take hostname and ip_address out of Byobu's status (byobu-config): they ask by wget, without a token",
		Link: "https://www.byobu.org/documentation", Source: "https://github.com/dustinkirkland/byobu/blob/master/usr/lib/byobu/hostname",
		Note: "A shell script: its calls are wget's.",
	},
	{
		Name: "mountpoint-s3", Kind: Tool, Title: "Mountpoint for Amazon S3", Products: []Product{{Name: "mountpoint-s3"}}, Executables: []string{"mount-s3"}, Packages: []string{"mount-s3"},
		Family: "native", Support: Always, Link: "https://github.com/awslabs/mountpoint-s3", Source: "https://github.com/awslabs/aws-c-auth/releases",
		Note: "Derived: it asks by aws-c-auth, which spoke v2 before Mountpoint's first release.",
	},
	{
		Name: "ohai", Kind: Tool, Title: "Chef Ohai", Scripts: []string{"ohai", "chef-client", "cinc-client", "chef-solo"}, Packages: []string{"ohai"},
		Modules: []Module{{Ecosystem: RubyGems, Name: "ohai"}}, Family: "ruby", Support: Since, First: "16.13.0", AtMost: true,
		Link: "https://docs.chef.io/ohai/", Source: "https://github.com/chef/ohai/pull/1610", Note: "The gem of 16.13.0, as Debian has it, fetches a token.",
	},
	{
		Name: "facter", Kind: Tool, Title: "Puppet Facter", Scripts: []string{"facter", "puppet"}, Packages: []string{"facter"},
		Modules: []Module{{Ecosystem: RubyGems, Name: "facter"}}, Family: "ruby", Support: Since, First: "4.3.0", AtMost: true,
		Link: "https://github.com/puppetlabs/facter", Source: "https://github.com/puppetlabs/facter/commit/8c323415a59025232fc06e1dc5853e10c5ee8a32",
		Note: "FACT-3042; the gem of 4.3.0, as Debian has it, fetches a token.",
	},
	{
		Name: "ansible", Kind: Tool, Title: "Ansible ec2_metadata_facts", Products: []Product{{Name: "ansible-httpget", NoVersion: true}},
		Scripts: []string{"AnsiballZ_ec2_metadata_facts.py"}, Family: "python", Support: Since, First: "1.5.0",
		Fix:    "upgrade Ansible's collection amazon.aws to >= 1.5.0",
		Link:   "https://docs.ansible.com/ansible/latest/collections/amazon/aws/ec2_metadata_facts_module.html",
		Source: "https://github.com/ansible-collections/amazon.aws/pull/43", Note: "The version is that of the collection amazon.aws.",
		Example: "ansible-httpget",
	},
	{
		Name: "ecr-credential-helper", Kind: Tool, Title: "ECR credential helper", Executables: []string{"docker-credential-ecr-login"}, Packages: []string{"amazon-ecr-credential-helper"},
		Modules: []Module{{Ecosystem: Go, Name: "github.com/awslabs/amazon-ecr-credential-helper/ecr-login"}}, Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: ByLibrary,
		Fix:  "upgrade the ECR credential helper to a release after 0.4.0",
		Link: "https://github.com/awslabs/amazon-ecr-credential-helper/releases", Source: "https://github.com/awslabs/amazon-ecr-credential-helper/pull/223",
		Note: "0.4.0 cannot; #240 moved to 1.35 of the AWS SDK for Go.",
	},
	{
		Name: "external-dns", Kind: Agent, Title: "ExternalDNS", Executables: []string{"external-dns"}, Modules: []Module{{Ecosystem: Go, Name: "sigs.k8s.io/external-dns"}},
		Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: ByLibrary,
		Link: "https://github.com/kubernetes-sigs/external-dns/releases", Source: "https://github.com/kubernetes-sigs/external-dns/blob/master/go.mod",
	},
	{
		Name: "aws-load-balancer-controller", Kind: Agent, Title: "AWS Load Balancer Controller", Executables: []string{"aws-load-balancer-controller"},
		Modules: []Module{{Ecosystem: Go, Name: "sigs.k8s.io/aws-load-balancer-controller"}}, Family: "native", On: []string{awsSDKGoV2, awsSDKGo}, Support: ByLibrary,
		Link: "https://github.com/kubernetes-sigs/aws-load-balancer-controller/releases", Source: "https://github.com/kubernetes-sigs/aws-load-balancer-controller/blob/main/go.mod",
	},
}
