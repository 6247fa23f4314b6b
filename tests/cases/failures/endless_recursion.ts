// class: exception
const deeper = (depth: number): number => deeper(depth + 1) + 1;

export default (event: { data: { n: number; bad: boolean } }) => event.data.bad ? deeper(0) : event.data.n;
