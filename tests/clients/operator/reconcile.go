package main

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	finalizer = "web.kedge.test/record"
	byTheme   = "spec.theme"
)

// sites keeps for each site a ConfigMap and a Deployment that it owns, and a record of it in the operator's namespace, which
// no owner can hold: the finalizer takes it back.
type sites struct {
	client.Client
	events events.EventRecorder
	// home is the operator's namespace.
	home string
}

func (r *sites) register(ctx context.Context, mgr ctrl.Manager) error {
	theme := func(object client.Object) []string { return []string{object.(*Site).Spec.Theme} }
	if err := mgr.GetFieldIndexer().IndexField(ctx, &Site{}, byTheme, theme); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).For(&Site{}).Owns(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.withTheme)).Complete(r)
}

// withTheme finds the sites that a ConfigMap is the theme of.
func (r *sites) withTheme(ctx context.Context, theme client.Object) (found []reconcile.Request) {
	var list SiteList
	err := r.List(ctx, &list, client.InNamespace(theme.GetNamespace()), client.MatchingFields{byTheme: theme.GetName()})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "sites of a theme")
	}
	for _, site := range list.Items {
		found = append(found, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&site)})
	}
	return found
}

func (r *sites) Reconcile(ctx context.Context, request reconcile.Request) (done reconcile.Result, err error) {
	var site Site
	if err = r.Get(ctx, request.NamespacedName, &site); err != nil {
		return done, client.IgnoreNotFound(err)
	}
	record := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.home, Name: "site." + site.Namespace + "." + site.Name}}
	if !site.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&site, finalizer) {
			if err = client.IgnoreNotFound(r.Delete(ctx, record)); err == nil {
				err = client.IgnoreNotFound(r.Update(ctx, &site))
			}
		}
		return done, err
	}
	if controllerutil.AddFinalizer(&site, finalizer) {
		// The update is heard as any other.
		return done, r.Update(ctx, &site)
	}
	if _, err = controllerutil.CreateOrUpdate(ctx, r.Client, record, func() error { return nil }); err != nil {
		return done, err
	}
	if err = r.page(ctx, &site); err != nil {
		return done, err
	}
	deployment, err := r.deployment(ctx, &site)
	if err != nil {
		return done, err
	}
	return done, r.status(ctx, &site, deployment)
}

func (r *sites) page(ctx context.Context, site *Site) error {
	page := site.Spec.Page.Body + "\n"
	if site.Spec.Theme != "" {
		var theme corev1.ConfigMap
		err := r.Get(ctx, types.NamespacedName{Namespace: site.Namespace, Name: site.Spec.Theme}, &theme)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		page += theme.Data["footer"]
	}
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: site.Namespace, Name: site.Name + "-page"}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, held, func() error {
		held.Data = map[string]string{"index.html": page}
		return controllerutil.SetControllerReference(site, held, r.Scheme())
	})
	return err
}

func (r *sites) deployment(ctx context.Context, site *Site) (*appsv1.Deployment, error) {
	labels := map[string]string{"site": site.Name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: site.Namespace, Name: site.Name}}
	outcome, err := controllerutil.CreateOrUpdate(ctx, r.Client, d, func() error {
		d.Spec.Replicas = site.Spec.Replicas
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Template.Labels = labels
		pod := &d.Spec.Template.Spec
		pod.TerminationGracePeriodSeconds = new(int64(0))
		if len(pod.Containers) == 0 {
			pod.Containers = []corev1.Container{{}}
		}
		main := &pod.Containers[0]
		main.Name, main.Image = "main", "kedge.test/busybox:1"
		main.Command = []string{"httpd", "-f", "-p", "8080", "-h", "/page"}
		main.VolumeMounts = []corev1.VolumeMount{{Name: "page", MountPath: "/page"}}
		if len(pod.Volumes) == 0 {
			pod.Volumes = []corev1.Volume{{Name: "page"}}
			pod.Volumes[0].ConfigMap = &corev1.ConfigMapVolumeSource{}
		}
		pod.Volumes[0].ConfigMap.Name = site.Name + "-page"
		return controllerutil.SetControllerReference(site, d, r.Scheme())
	})
	if err == nil && outcome == controllerutil.OperationResultCreated {
		r.events.Eventf(site, d, corev1.EventTypeNormal, "Deployed", "Deploy", "made Deployment %s", d.Name)
	}
	return d, err
}

func (r *sites) status(ctx context.Context, site *Site, d *appsv1.Deployment) error {
	before := site.DeepCopy()
	s := &site.Status
	s.Replicas, s.ReadyReplicas = d.Status.Replicas, d.Status.ReadyReplicas
	s.Selector, s.ObservedGeneration = "site="+site.Name, site.Generation
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Progressing", ObservedGeneration: site.Generation}
	if d.Status.ObservedGeneration == d.Generation && s.ReadyReplicas == *d.Spec.Replicas && s.Replicas == s.ReadyReplicas {
		ready.Status, ready.Reason = metav1.ConditionTrue, "Deployed"
	}
	meta.SetStatusCondition(&s.Conditions, ready)
	return client.IgnoreNotFound(r.Status().Patch(ctx, site, client.MergeFrom(before)))
}
