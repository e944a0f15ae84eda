package main

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	replicasDefault = 2
	replicasMax     = 5
	// keep is an annotation: a site that has it is not deleted.
	keep = "web.kedge.test/keep"
)

// judge defaults and validates sites.
type judge struct{}

func (judge) Default(_ context.Context, site *Site) error {
	if site.Spec.Replicas == nil {
		site.Spec.Replicas = new(int32(replicasDefault))
	}
	if site.Labels == nil {
		site.Labels = map[string]string{}
	}
	site.Labels["web.kedge.test/defaulted"] = "yes"
	return nil
}

func (judge) ValidateCreate(_ context.Context, site *Site) (admission.Warnings, error) {
	return valid(site)
}

func (judge) ValidateUpdate(_ context.Context, _, site *Site) (admission.Warnings, error) {
	return valid(site)
}

func (judge) ValidateDelete(_ context.Context, site *Site) (admission.Warnings, error) {
	if site.Annotations[keep] != "" {
		return nil, fmt.Errorf("%s is to be kept", site.Name)
	}
	return nil, nil
}

func valid(site *Site) (warnings admission.Warnings, err error) {
	replicas := *site.Spec.Replicas
	if replicas > replicasMax {
		path := field.NewPath("spec", "replicas")
		wrong := field.ErrorList{field.Invalid(path, replicas, fmt.Sprintf("a site has no more than %d", replicasMax))}
		return nil, apierrors.NewInvalid(stored.WithKind("Site").GroupKind(), site.Name, wrong)
	}
	if replicas == 0 {
		warnings = append(warnings, "nobody serves this site")
	}
	return warnings, nil
}
