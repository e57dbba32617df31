"""The same cluster for other machinery: what a deploy config is as manifests of Kubernetes."""
