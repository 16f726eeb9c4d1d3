// The projects whose custom resource definitions the chart's optional objects are instances of: nothing here is built,
// and infra/keyturn_local/toolchain/custom_resources.py takes single files out of them. go.sum has both lines of each.
module keyturn.dev/custom-resources

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.94.0
)
