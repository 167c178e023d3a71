// The programs of a Kubernetes cluster in one file. The name it is called by selects the
// program; the name may also be the first argument.
//
// Six programs share nearly all of their code: linked together they take a fifth of the disk and
// of the link time that they would take one by one.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const etcd = "etcd"

// command returns the command that a program's name stands for, or nil. A command is made only
// when it is to run: to make it sets the feature gates of the whole process.
func command(program string) *cobra.Command {
	switch program {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	}
	return nil
}

func main() {
	for attempt := 0; attempt < 2 && len(os.Args) > 0; attempt++ {
		program := filepath.Base(os.Args[0])
		if program == etcd {
			etcdmain.Main(os.Args)
			return
		}
		if found := command(program); found != nil {
			os.Exit(cli.Run(found))
		}
		os.Args = os.Args[1:]
	}
	fmt.Fprintln(os.Stderr, "kube: call it by the name of etcd, kube-apiserver, "+
		"kube-controller-manager, kube-scheduler, kubelet or kubectl")
	os.Exit(2)
}
