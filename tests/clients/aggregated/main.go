// An aggregated server as anybody would write one: the kinds, strategies and OpenAPI of Kubernetes' own sample (wardle.example.com)
// on its library for API servers, with its state in memory. Who its users are and what they may do it asks the cluster's API
// server: the ConfigMap extension-apiserver-authentication, TokenReviews, SubjectAccessReviews.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/pflag"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	"k8s.io/sample-apiserver/pkg/apiserver"
	"k8s.io/sample-apiserver/pkg/generated/openapi"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	flags := pflag.NewFlagSet(os.Args[0], pflag.ExitOnError)
	dnsName := flags.String("dns-name", "", "the name that the certificate is made for, besides localhost")
	serving := options.NewSecureServingOptions().WithLoopback()
	authentication := options.NewDelegatingAuthenticationOptions()
	authorization := options.NewDelegatingAuthorizationOptions()
	serving.AddFlags(flags)
	authentication.AddFlags(flags)
	authorization.AddFlags(flags)
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	gates := featuregate.NewVersionedFeatureGate(utilversion.MustParse("1.2"))
	compatibility.DefaultComponentGlobalsRegistry.ComponentGlobalsOrRegister(
		apiserver.WardleComponentName, basecompatibility.NewEffectiveVersionFromString("1.2", "", ""), gates)

	config := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	namer := openapinamer.NewDefinitionNamer(apiserver.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "Wardle"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "Wardle"
	config.EffectiveVersion = compatibility.DefaultComponentGlobalsRegistry.EffectiveVersionFor(apiserver.WardleComponentName)
	config.RESTOptionsGetter = newMemories()

	if err := serving.MaybeDefaultWithSelfSignedCerts("localhost", []string{*dnsName}, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		return err
	}
	if err := serving.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig); err != nil {
		return err
	}
	if err := authentication.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig); err != nil {
		return err
	}
	if err := authorization.ApplyTo(&config.Authorization); err != nil {
		return err
	}
	server, err := (&apiserver.Config{GenericConfig: config}).Complete().New()
	if err != nil {
		return err
	}
	return server.GenericAPIServer.PrepareRun().RunWithContext(genericapiserver.SetupSignalContext())
}
