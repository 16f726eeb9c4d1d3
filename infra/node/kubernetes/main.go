// Command kubernetes is stock kubelet and kube-proxy in one binary, which runs as the program whose name it was called by.
//
// Apart from the control plane's binary, so that whoever runs no real node builds neither.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var programs = map[string]func() *cobra.Command{
	"kubelet":    func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kube-proxy": func() *cobra.Command { return proxy.NewProxyCommand() },
}

func main() {
	name := filepath.Base(os.Args[0])
	build, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: call me as kubelet or kube-proxy\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(build()))
}
