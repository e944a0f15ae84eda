// Command operator is an operator as people write them with controller-runtime: it runs in the cluster, several replicas of
// which one leads, and keeps what its kind, Site, asks for. Its webhooks default, validate and convert.
package main

import (
	"context"
	"crypto/tls"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	clientgo "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

func main() {
	ctrl.SetLogger(zap.New())
	if err := run(ctrl.SetupSignalHandler(), os.Getenv("POD_NAMESPACE")); err != nil {
		ctrl.Log.Error(err, "the operator ends")
		os.Exit(1)
	}
}

func run(ctx context.Context, home string) error {
	scheme := runtime.NewScheme()
	if err := clientgo.AddToScheme(scheme); err != nil {
		return err
	}
	addToScheme(scheme)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	pair, authority, err := certificate(ctx, api, home)
	if err != nil {
		return err
	}
	serve := func(c *tls.Config) {
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	mgr, err := ctrl.NewManager(config, manager.Options{
		Scheme:                        scheme,
		Metrics:                       server.Options{BindAddress: "0"},
		HealthProbeBindAddress:        ":8081",
		WebhookServer:                 webhook.NewServer(webhook.Options{TLSOpts: []func(*tls.Config){serve}}),
		LeaderElection:                true,
		LeaderElectionID:              "operator." + group,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	if err = mgr.AddReadyzCheck("webhooks", mgr.GetWebhookServer().StartedChecker()); err != nil {
		return err
	}
	if err = mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err = ctrl.NewWebhookManagedBy(mgr, &Site{}).WithDefaulter(judge{}).WithValidator(judge{}).Complete(); err != nil {
		return err
	}
	reconciler := &sites{Client: mgr.GetClient(), events: mgr.GetEventRecorder("operator"), home: home}
	if err = reconciler.register(ctx, mgr); err != nil {
		return err
	}
	if err = trust(ctx, api, authority); err != nil {
		return err
	}
	return mgr.Start(ctx)
}
