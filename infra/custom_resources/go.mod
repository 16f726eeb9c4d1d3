// The projects whose custom resource definitions the chart's optional objects, and the objects of its examples, are
// instances of. Nothing here is built; infra/keyturn_local/toolchain/custom_resources.py takes single files out of them.
// go.sum has both lines of each.
module keyturn.dev/custom-resources

go 1.26.3

require (
	github.com/argoproj/argo-cd/v3 v3.5.7
	github.com/argoproj/argo-rollouts v1.10.1
	github.com/cert-manager/cert-manager v1.21.2
	github.com/fluxcd/source-controller v1.9.6
	github.com/openshift/api v0.0.0-20251020135558-286504b695bc
	github.com/prometheus-operator/prometheus-operator v0.94.0
	sigs.k8s.io/gateway-api v1.6.3
)
