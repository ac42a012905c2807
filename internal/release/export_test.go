package release

// CutPublish and CutTree give options by which the work ends at a step, as by a cut.
func CutPublish(o PublishOptions, cut func(string) error) PublishOptions { o.cut = cut; return o }

func CutTree(o TreeOptions, cut func(string) error) TreeOptions { o.cut = cut; return o }
