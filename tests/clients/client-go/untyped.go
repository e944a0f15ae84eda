package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
	"k8s.io/kube-openapi/pkg/util/proto"
)

// untyped: the dynamic client (JSON) and the metadata client, with its informer.
func untyped(c *cluster) {
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	client := got(dynamic.NewForConfig(c.config)).Resource(maps).Namespace(namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"k": "v"},
		"metadata": map[string]any{"name": "untyped", "annotations": map[string]any{"a": "b"}},
	}}
	made := got(client.Create(c.ctx, object, metav1.CreateOptions{}))
	check(made.GetUID() != "", "created: %v", made)
	must(unstructured.SetNestedField(made.Object, "w", "data", "k"))
	got(client.Update(c.ctx, made, metav1.UpdateOptions{}))
	list := got(client.List(c.ctx, metav1.ListOptions{FieldSelector: "metadata.name=untyped"}))
	check(len(list.Items) == 1 && list.Items[0].GetKind() == "ConfigMap", "list: %v", list)
	value, _, _ := unstructured.NestedString(list.Items[0].Object, "data", "k")
	check(value == "w", "the update: %q", value)

	only := got(metadata.NewForConfig(c.config))
	part := got(only.Resource(maps).Namespace(namespace).Get(c.ctx, "untyped", metav1.GetOptions{}))
	check(part.Annotations["a"] == "b" && part.UID == made.GetUID(), "metadata: %v", part)
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	factory := metadatainformer.NewFilteredSharedInformerFactory(only, 0, namespace, nil)
	informer := factory.ForResource(maps)
	informer.Informer()
	factory.Start(ctx.Done())
	synced, giveUp := context.WithTimeout(ctx, patience)
	defer giveUp()
	for kind, done := range factory.WaitForCacheSync(synced.Done()) {
		check(done, "metadata of %s did not sync", kind)
	}
	cached := got(informer.Lister().ByNamespace(namespace).Get("untyped"))
	check(cached.(*metav1.PartialObjectMetadata).UID == made.GetUID(), "metadata informer: %v", cached)
	must(client.Delete(c.ctx, "untyped", metav1.DeleteOptions{}))
}

// discover: aggregated and plain discovery agree, a mapper resolves kinds, OpenAPI v3 and v2 describe them.
func discover(c *cluster) {
	aggregated := got(discovery.NewDiscoveryClientForConfig(c.config))
	plain := got(discovery.NewDiscoveryClientForConfig(c.config))
	plain.UseLegacyDiscovery = true
	names := func(client discovery.DiscoveryInterface) []string {
		_, lists, err := client.ServerGroupsAndResources()
		must(err)
		var names []string
		for _, list := range lists {
			for _, resource := range list.APIResources {
				verbs := slices.Sorted(slices.Values(resource.Verbs))
				names = append(names, list.GroupVersion+"/"+resource.Name+" "+resource.Kind+" "+string(got(json.Marshal(verbs))))
			}
		}
		slices.Sort(names)
		return names
	}
	a, b := names(aggregated), names(plain)
	check(len(a) > 30 && slices.Equal(a, b), "aggregated %v\nplain %v", a, b)
	check(c.wire.count("/apis", "as=APIGroupDiscoveryList") >= 1, "discovery was not aggregated")

	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(aggregated))
	mapping := got(mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"}))
	check(mapping.Resource.Resource == "deployments" && mapping.Scope.Name() == "namespace", "mapping: %v", mapping)
	resource := got(restmapper.NewShortcutExpander(mapper, aggregated, nil).ResourceFor(schema.GroupVersionResource{Resource: "deploy"}))
	check(resource.Resource == "deployments", "short name: %v", resource)

	version := got(aggregated.ServerVersion())
	check(version.Major == "1" && version.GitVersion[0] == 'v', "version: %v", version)
	spec := got(openapi3.NewRoot(aggregated.OpenAPIV3()).GVSpec(schema.GroupVersion{Group: "apps", Version: "v1"}))
	check(spec.Components.Schemas["io.k8s.api.apps.v1.Deployment"] != nil, "OpenAPI v3 does not know Deployment")

	models := modelsOf(got(aggregated.OpenAPISchema()))
	check(c.wire.count("/openapi/v2", "+protobuf") == 1, "OpenAPI v2 was not protobuf")
	_, lists, err := aggregated.ServerGroupsAndResources()
	must(err)
	for _, list := range lists {
		of := got(schema.ParseGroupVersion(list.GroupVersion))
		for _, resource := range list.APIResources {
			if strings.Contains(resource.Name, "/") {
				continue
			}
			model, ok := models[of.WithKind(resource.Kind)].(*proto.Kind)
			check(ok && len(model.Fields) > 1, "OpenAPI v2 does not know %s of %s", resource.Kind, list.GroupVersion)
		}
	}
	deployment := models[schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}].(*proto.Kind)
	pod := deployment.Fields["spec"].(proto.Reference).SubSchema().(*proto.Kind).Fields["template"].(proto.Reference).
		SubSchema().(*proto.Kind).Fields["spec"].(proto.Reference).SubSchema().(*proto.Kind)
	containers := pod.Fields["containers"].(*proto.Array)
	check(pod.IsRequired("containers") && containers.GetExtensions()["x-kubernetes-patch-merge-key"] == "name",
		"containers of a pod: %v", containers)
}

// modelsOf reads an OpenAPI v2 document as kubectl and others do, by the kinds that its models say they are of.
func modelsOf(document *openapi_v2.Document) map[schema.GroupVersionKind]proto.Schema {
	all := got(proto.NewOpenAPIData(document))
	models := map[schema.GroupVersionKind]proto.Schema{}
	for _, name := range all.ListModels() {
		model := all.LookupModel(name)
		kinds, _ := model.GetExtensions()["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			of := kind.(map[any]any)
			models[schema.GroupVersionKind{Group: of["group"].(string), Version: of["version"].(string), Kind: of["kind"].(string)}] = model
		}
	}
	return models
}
