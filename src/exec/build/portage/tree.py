# Says where the main package tree is, as Portage itself has it. Prints one line for hive.
import json

import portage

repository = portage.settings.repositories.mainRepo()
print("hive-tree " + json.dumps({"location": repository.location if repository else None, "portage": portage.VERSION}))
