// Embed photos with an exported student as transformers.js does it.
//
//     node embed.js FOLDER DTYPE PHOTO...
//
// Prints one JSON list of embeddings, in the order of the photos.
import { basename, dirname } from "node:path";

import { env, pipeline } from "@huggingface/transformers";

const [folder, dtype, ...photos] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const extract = await pipeline("image-feature-extraction", basename(folder), { dtype });
const embeddings = [];
for (const photo of photos) {
  embeddings.push((await extract(photo)).tolist()[0]);
}
console.log(JSON.stringify(embeddings));
